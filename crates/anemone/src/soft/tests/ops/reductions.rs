//! Reductions, softmax, normalization.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let names = [
        "reduce_sum",
        "reduce_mean",
        "reduce_max",
        "reduce_min",
        "reduce_sum_square",
        "reduce_l1_norm",
        "reduce_l2_norm",
        "reduce_log_sum_exp",
    ];
    let axes: [(&[usize], &[i32]); 11] = [
        (&[3, 7, 1, 5], &[1]),
        (&[3, 70, 1, 64], &[1]),
        (&[3, 7, 1, 65], &[3]),
        (&[3, 7, 1, 5], &[0, 3]),
        (&[3, 7, 1, 5], &[0, 1, 2, 3]),
        (&[2, 3, 4, 5], &[0, 2]),
        (&[2, 3, 4, 5], &[1, 3]),
        (&[4, 300], &[0]),
        (&[4, 300], &[1]),
        (&[5, 1, 1, 3], &[1, 2]),
        (&[3, 5, 7], &[-1, -2]),
    ];
    let mut cases = Vec::new();
    for name in names {
        for (shape, axes) in axes {
            // Only over axes that lie together.
            if name == "reduce_log_sum_exp" && [&[0, 3][..], &[0, 2], &[1, 3]].contains(&axes) {
                continue;
            }
            let size = |a: i32| shape[(if a < 0 { a + shape.len() as i32 } else { a }) as usize];
            let n: usize = axes.iter().map(|&a| size(a)).product();
            for keep in [false, true] {
                cases.push(case(format!("{name} {axes:?} of {shape:?}"), &[shape], 2 * n, move |b, v| {
                    let call = b.call(name).arg("x", v[0]).constant("axes", i32s(axes));
                    call.constant("keep_dims", Tensor::bool(keep)).finish()
                }));
            }
        }
    }
    let log_sum = case("reduce_log_sum", &[&[3, 40]], 40, |b, v| {
        b.call("reduce_log_sum").arg("x", v[0]).constant("axes", i32s(&[1])).finish()
    });
    cases.push(log_sum.offset(3.0));
    for (shape, axis) in [(&[2, 3, 9, 9][..], -1), (&[3, 65, 1, 7], 1), (&[2, 3, 300], 1), (&[5], 0)] {
        cases.push(case(format!("softmax {axis} of {shape:?}"), &[shape], 4, move |b, v| {
            b.call("softmax").arg("x", v[0]).constant("axis", Tensor::i32(axis)).finish()
        }));
    }
    for (shape, axes) in [(&[3, 40, 1, 7][..], &[1][..]), (&[3, 5, 33], &[2]), (&[2, 4, 1, 6], &[1, 2, 3])] {
        for with_factors in [false, true] {
            cases.push(case(format!("layer_norm {axes:?} of {shape:?}"), &[shape], 40, move |b, v| {
                let own: Vec<usize> = axes.iter().map(|&a| shape[a as usize]).collect();
                let (gamma, epsilon) = (wave(b, v[0], &own), number(b, v[0], 1e-3));
                let call = b.call("layer_norm").arg("x", v[0]).constant("axes", i32s(axes));
                let call = call.constant("epsilon", epsilon);
                if with_factors {
                    call.constant("gamma", gamma.clone()).constant("beta", gamma).finish()
                } else {
                    call.finish()
                }
            }));
        }
    }
    cases
}
