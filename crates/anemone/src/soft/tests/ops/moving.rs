//! Elements moved, picked and put; whole numbers.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    [slices(), joints(), picks(), vec![whole_numbers()]].into_iter().flatten().collect()
}

fn slices() -> Vec<Case> {
    let mut cases = Vec::new();
    for perm in [[0, 1, 2, 3], [1, 0, 2, 3], [0, 3, 2, 1], [3, 2, 1, 0], [0, 2, 3, 1], [-1, 0, 1, 2]] {
        cases.push(case(format!("transpose {perm:?}"), &[&[3, 5, 18, 33]], 0, move |b, v| {
            b.transpose(v[0], &perm)
        }));
    }
    let spans = [
        ([0, 1, 2], [3, 4, 9], [1, 1, 1]),
        ([2, 0, -1], [0, 4, 0], [-1, 3, -2]),
        ([1, 0, 0], [2, 5, 9], [1, 2, 3]),
        ([-9, 4, 20], [9, 0, -8], [1, -2, -1]),
    ];
    for (begin, end, stride) in spans {
        cases.push(case(format!("slice_by_index {begin:?} {end:?} {stride:?}"), &[&[3, 5, 9]], 0, move |b, v| {
            let call = b.call("slice_by_index").arg("x", v[0]).constant("begin", i32s(&begin));
            call.constant("end", i32s(&end)).constant("stride", i32s(&stride)).finish()
        }));
    }
    cases.push(case("slice_by_index with masks", &[&[3, 5, 9]], 0, |b, v| {
        let flags = |f: [i64; 3]| Tensor::int(DType::Bool, &[3], f.to_vec());
        let call = b.call("slice_by_index").arg("x", v[0]).constant("begin", i32s(&[1, -2, 7]));
        let call = call.constant("end", i32s(&[2, -1, 1])).constant("stride", i32s(&[1, 1, -2]));
        let call = call.constant("begin_mask", flags([1, 0, 1])).constant("end_mask", flags([0, 0, 1]));
        call.constant("squeeze_mask", flags([0, 1, 0])).finish()
    }));
    cases.push(case("slice", &[&[3, 5, 9]], 0, |b, v| b.slice(v[0], &[1, 1, 2], &[2, 3, 4])));
    cases.push(case("leading slice", &[&[3, 5, 9]], 0, |b, v| b.slice(v[0], &[1, 0, 0], &[2, 5, 9])));
    for axes in [&[0][..], &[2], &[0, 1, 2]] {
        cases.push(case(format!("reverse {axes:?}"), &[&[3, 5, 9]], 0, move |b, v| {
            b.call("reverse").arg("x", v[0]).constant("axes", i32s(axes)).finish()
        }));
    }
    for reps in [[1, 1, 3], [2, 1, 1], [2, 3, 2], [1, 4, 1]] {
        cases.push(case(format!("tile {reps:?}"), &[&[3, 5, 4]], 0, move |b, v| {
            b.call("tile").arg("x", v[0]).constant("reps", i32s(&reps)).finish()
        }));
    }
    for (pad, value) in [(&[1, 2][..], 0.0), (&[0, 1, 2, 0], -1.5), (&[1, 1, 1, 1, 1, 1], 3.0)] {
        cases.push(case(format!("pad {pad:?}"), &[&[3, 5, 4]], 0, move |b, v| {
            let value = number(b, v[0], value);
            let call = b.call("pad").arg("x", v[0]).constant("pad", i32s(pad));
            call.constant("mode", Tensor::string("constant")).constant("constant_val", value).finish()
        }));
    }
    cases
}

fn joints() -> Vec<Case> {
    let mut cases = Vec::new();
    let two: [&[usize]; 2] = [&[3, 5, 4], &[3, 5, 4]];
    for axis in [0, 1, 2] {
        let at = Tensor::i32(axis as i32);
        cases.push(case(format!("concat {axis}"), &two, 0, move |b, v| b.concat(&[v[0], v[1], v[0]], axis)));
        cases.push(case(format!("concat of constants {axis}"), &two[..1], 0, move |b, v| {
            let dtype = b.tensor_ty(v[0])?.dtype;
            let (zeros, ones) = (b.filled(dtype, &[3, 5, 4], 0.0)?, b.filled(dtype, &[3, 5, 4], 1.0)?);
            b.concat(&[zeros, v[0], ones, zeros], axis)
        }));
        let axis_of = at.clone();
        cases.push(case(format!("interleave {axis}"), &two, 0, move |b, v| {
            let call = b.call("concat").args("values", v).constant("axis", axis_of.clone());
            call.constant("interleave", Tensor::bool(true)).finish()
        }));
        let axis_of = at.clone();
        cases.push(case(format!("stack {axis}"), &two, 0, move |b, v| {
            b.call("stack").args("values", v).constant("axis", axis_of.clone()).finish()
        }));
        let mut split = case(format!("split {axis}"), &[&[6, 6, 6]], 0, |_, v| Ok(v[0]));
        split.build = Box::new(move |b, v| {
            let call = b.call("split").arg("x", v[0]).constant("split_sizes", i32s(&[1, 3, 2]));
            let parts = call.constant("axis", at.clone()).finish_many()?;
            // Views of an input, and a value made of one.
            Ok(vec![parts[0], parts[2], b.relu(parts[1])?])
        });
        cases.push(split);
    }
    cases
}

fn picks() -> Vec<Case> {
    let mut cases = Vec::new();
    let data: &[usize] = &[3, 5, 4];
    for axis in [0, 1, 2] {
        let mut picked = [3, 5, 4];
        picked[axis] = 7;
        let of_axis = move || Tensor::i32(axis as i32);
        for (op, indices) in [("gather", &[2, 3][..]), ("gather_along_axis", &picked)] {
            let gather = case(format!("{op} {axis}"), &[data], 0, move |b, v| {
                b.call(op).arg("x", v[0]).arg("indices", v[1]).constant("axis", of_axis()).finish()
            });
            cases.push(gather.ints(indices, 3));
        }
        for (op, indices) in [("scatter", &[7][..]), ("scatter_along_axis", &picked)] {
            for mode in ["add", "update"] {
                let scatter = case(format!("{op} {mode} {axis}"), &[data, &picked], 7, move |b, v| {
                    let call = b.call(op).arg("data", v[0]).arg("updates", v[1]).arg("indices", v[2]);
                    call.constant("axis", of_axis()).constant("mode", Tensor::string(mode)).finish()
                });
                cases.push(scatter.ints(indices, 3));
            }
        }
    }
    cases
}

fn whole_numbers() -> Case {
    let case = case("whole numbers", &[&[3, 4]], 1, |_, v| Ok(v[0]));
    let mut case = case.ints(&[3, 4], 50).ints(&[3, 4], 50);
    case.build = Box::new(|b, v| {
        let sum = b.add(v[1], v[2])?;
        let turned = b.transpose(sum, &[1, 0])?;
        let from = b.cast(v[0], DType::Int32)?;
        let product = b.mul(from, v[1])?;
        let differs = b.call("not_equal").arg("x", v[1]).arg("y", from).finish()?;
        let dtype = b.tensor_ty(v[0])?.dtype;
        let (differs, as_float) = (b.cast(differs, dtype)?, b.cast(v[1], dtype)?);
        let least = b.constant(Tensor::i32(-20));
        let least = b.call("maximum").arg("x", v[2]).arg("y", least).finish()?;
        let joined = b.concat(&[least, v[1]], 0)?;
        Ok(vec![turned, product, differs, as_float, joined])
    });
    case
}
