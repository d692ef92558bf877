//! Ops that move elements, on small tensors.

use super::*;

fn text(s: &str) -> Tensor {
    Tensor::string(s)
}

fn vector(xs: &[i64]) -> Tensor {
    ints(&[xs.len()], xs)
}

fn scalar(x: i64) -> Tensor {
    ints(&[], &[x])
}

/// 0, 1, 2, ...
fn counted(shape: &[usize]) -> Tensor {
    ints(shape, &(0..shape.iter().product::<usize>() as i64).collect::<Vec<_>>())
}

#[test]
fn slices_are_numpys() {
    // Of 0 to 5: begin, end, stride, begin_mask, end_mask, and what is taken.
    let cases: &[([i64; 5], &[i64])] = &[
        ([1, 4, 1, 0, 0], &[1, 2, 3]),
        ([-2, 100, 1, 0, 0], &[4, 5]),
        ([0, 0, 4, 1, 1], &[0, 4]),
        ([0, 0, -2, 1, 1], &[5, 3, 1]),
        ([-1, 1, -3, 0, 0], &[5, 2]),
        ([4, 1, 1, 0, 0], &[]),
        ([-100, 2, 1, 0, 0], &[0, 1]),
        ([2, -100, -1, 0, 0], &[2, 1, 0]),
    ];
    for (how, expected) in cases {
        let [begin, end, stride, begin_mask, end_mask] = how.map(|x| vector(&[x]));
        let mask = |t: Tensor| bools(t.ints().unwrap());
        let y = run(
            "slice_by_index",
            &[
                ("x", counted(&[6])),
                ("begin", begin),
                ("end", end),
                ("stride", stride),
                ("begin_mask", mask(begin_mask)),
                ("end_mask", mask(end_mask)),
            ],
        );
        assert_eq!(y.unwrap(), vector(expected), "{how:?}");
    }
    let squeezed = |at: i64| {
        let (begin, end) = (vector(&[at, 0]), vector(&[0, 2]));
        let mask = ("squeeze_mask", bools(&[1, 0]));
        run("slice_by_index", &[("x", counted(&[2, 3])), ("begin", begin), ("end", end), mask])
    };
    assert_eq!(squeezed(-1).unwrap(), vector(&[3, 4]));
    let e = squeezed(2).unwrap_err().to_string();
    assert!(e.contains("argument `begin` is 2 on axis 0, which has 2 elements"), "{e}");
}

#[test]
fn reshape_copies_sizes_from_the_left_until_ios_17_and_then_from_the_right() {
    let shape_of = |opset: Opset, shape: &[i64]| {
        let shape = vector(shape);
        let (x, shape_ty) = (Type::from(TensorType::new(DType::Int32, &[2, 50])), Type::from(shape.ty()));
        let (def, shape) = (find("reshape", opset).unwrap().unwrap(), Value::Tensor(shape));
        let operands = vec![
            Some(Operand::One(Bound { ty: &x, value: None, constant: false })),
            Some(Operand::One(Bound { ty: &shape_ty, value: Some(&shape), constant: true })),
        ];
        infer(&Args { def, operands }).map(|types| types[0].as_tensor().unwrap().fixed_shape().unwrap())
    };
    assert_eq!(shape_of(Opset::Ios16, &[0, 5, -1]).unwrap(), [2, 5, 10]);
    assert_eq!(shape_of(Opset::Ios17, &[1, 0, -1, 0]).unwrap(), [1, 1, 2, 50]);
    assert!(shape_of(Opset::Ios16, &[1, 0, -1, 0]).is_err());
    assert!(shape_of(Opset::Ios17, &[3, -1]).is_err());
    assert!(shape_of(Opset::Ios17, &[-1, -1]).is_err());
}

#[test]
fn blocks() {
    let x = || ("x", floats(&[1, 4, 1, 1], &[0.0, 1.0, 2.0, 3.0]));
    // Eight channels tell the two orders apart.
    let eight = || ("x", floats(&[1, 8, 1, 1], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]));
    let y = run("depth_to_space", &[eight(), ("block_size", scalar(2))]).unwrap();
    assert_near("depth_to_space", &y, &[0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
    let y = run("pixel_shuffle", &[eight(), ("upscale_factor", scalar(2))]).unwrap();
    assert_near("pixel_shuffle", &y, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let e = run("depth_to_space", &[x(), ("block_size", scalar(3))]).unwrap_err().to_string();
    assert!(e.contains("a block of 9 does not divide 4 elements"), "{e}");
    let y = run(
        "space_to_batch",
        &[
            ("x", floats(&[1, 1, 1, 3], &[1.0, 2.0, 3.0])),
            ("block_shape", vector(&[1, 2])),
            ("paddings", ints(&[2, 2], &[0, 0, 1, 0])),
        ],
    );
    assert_near("space_to_batch", &y.unwrap(), &[0.0, 2.0, 1.0, 3.0]);
}

#[test]
fn paddings() {
    for (mode, expected) in [
        ("constant", [9.0, 9.0, 1.0, 2.0, 3.0, 9.0]),
        ("reflect", [3.0, 2.0, 1.0, 2.0, 3.0, 2.0]),
        ("replicate", [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]),
    ] {
        let x = ("x", floats(&[1, 3], &[1.0, 2.0, 3.0]));
        let value = ("constant_val", floats(&[], &[9.0]));
        let y = run("pad", &[x, ("pad", vector(&[2, 1])), ("mode", text(mode)), value]).unwrap();
        assert_near(mode, &y, &expected);
    }
    let x = ("x", floats(&[3], &[1.0, 2.0, 3.0]));
    let e = run("pad", &[x, ("pad", vector(&[3, 0])), ("mode", text("reflect"))]).unwrap_err().to_string();
    assert!(e.contains("puts 3 elements on axis 0, of which mode `reflect` has 2"), "{e}");
}

#[test]
fn orders() {
    let x = || ("x", vector(&[3, 1, 3, 2]));
    assert_eq!(run("argsort", &[x()]).unwrap(), vector(&[0, 2, 3, 1]));
    assert_eq!(run("argsort", &[x(), ("ascending", Tensor::bool(true))]).unwrap(), vector(&[1, 3, 0, 2]));
    let two = [x(), ("k", scalar(2)), ("return_indices", Tensor::bool(false))];
    assert_eq!(run("topk", &two).unwrap(), vector(&[3, 3]));
    let all = [x(), ("k", scalar(-1)), ("return_indices", Tensor::bool(false))];
    assert_eq!(run("topk", &all).unwrap(), vector(&[3, 3, 2, 1]));
    assert!(run("topk", &[x(), ("k", scalar(5))]).is_err());
    let nan = ("x", floats(&[3], &[1.0, f64::NAN, 2.0]));
    assert_eq!(run("argsort", &[nan]).unwrap(), vector(&[1, 2, 0]));
}

#[test]
fn running_sums_and_ranges() {
    for (exclusive, reverse, expected) in
        [(false, false, [1, 3, 6]), (true, false, [0, 1, 3]), (false, true, [6, 5, 3]), (true, true, [5, 3, 0])]
    {
        let flags = [("exclusive", Tensor::bool(exclusive)), ("reverse", Tensor::bool(reverse))];
        let y = run("cumsum", &[&[("x", vector(&[1, 2, 3]))], &flags[..]].concat()).unwrap();
        assert_eq!(y, vector(&expected), "{flags:?}");
    }
    let range = |start: i64, end: i64, step: i64| {
        run("range_1d", &[("start", scalar(start)), ("end", scalar(end)), ("step", scalar(step))])
    };
    assert_eq!(range(2, 9, 3).unwrap(), vector(&[2, 5, 8]));
    assert_eq!(range(2, -3, -2).unwrap(), vector(&[2, 0, -2]));
    assert_eq!(range(2, 1, 1).unwrap(), vector(&[]));
    assert!(range(0, 1, 0).is_err());
}

#[test]
fn scatters_take_updates_in_their_order() {
    for (mode, expected) in [
        ("update", [1, 8, 5]),
        ("add", [1, 14, 7]),
        ("sub", [1, -10, -3]),
        ("mul", [1, 64, 10]),
        ("div", [1, 0, 0]),
        ("max", [1, 8, 5]),
        ("min", [1, 2, 2]),
    ] {
        let data = ("data", vector(&[1, 2, 2]));
        let (indices, updates) = (("indices", vector(&[1, -1, 1])), ("updates", vector(&[4, 5, 8])));
        let y = run("scatter", &[data, indices, updates, ("mode", text(mode))]).unwrap();
        assert_eq!(y, vector(&expected), "{mode}");
    }
    let e = run("gather", &[("x", vector(&[1, 2])), ("indices", scalar(2))]).unwrap_err().to_string();
    assert!(e.contains("argument `indices` holds 2, axis 0 has 2 elements"), "{e}");
    let validated = ("validate_indices", Tensor::bool(true));
    let e = run("gather", &[("x", vector(&[1, 2])), ("indices", scalar(-1)), validated]).unwrap_err().to_string();
    assert!(e.contains("argument `indices` holds -1, axis 0 has 2 elements"), "{e}");
}

#[test]
fn grids_are_those_of_the_documentation() {
    let cases: &[(&str, usize, &[f64])] = &[
        ("STRICT_ALIGN_CORNERS", 5, &[0.0, 0.25, 0.5, 0.75, 1.0]),
        ("STRICT_ALIGN_CORNERS", 1, &[0.0]),
        ("ALIGN_CORNERS", 1, &[0.5]),
        ("DEFAULT", 5, &[0.0, 0.4, 0.8, 1.0, 1.0]),
        ("OFFSET_CORNERS", 5, &[0.1, 0.3, 0.5, 0.7, 0.9]),
        ("UNALIGN_CORNERS", 5, &[0.0, 0.1, 0.5, 0.9, 1.0]),
        ("UNALIGN_CORNERS", 6, &[0.0, 0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0]),
    ];
    for (mode, n, expected) in cases {
        let (x, width) = (("x", floats(&[1, 1, 2], &[0.0, 1.0])), ("target_size_width", scalar(*n as i64)));
        let y = run("resize_bilinear", &[x, width, ("sampling_mode", text(mode))]).unwrap();
        assert_near(mode, &y, expected);
    }
}

#[test]
fn an_image_turned_from_wide_to_high_is_never_both() {
    let (n, one) = (("target_size_height", scalar(1 << 17)), ("target_size_width", scalar(1)));
    let y = run("resize_bilinear", &[("x", Tensor::zeros(DType::Fp32, &[1, 1, 1 << 17])), n, one]);
    assert_eq!(y.unwrap().shape(), [1, 1 << 17, 1]);
}

#[test]
fn points_outside_an_image_are_padded() {
    // A row of three, at -1, -0.5 and 2.25.
    for (padding, expected) in [
        ("constant", [9.0, 5.0, 4.5]),
        ("border", [1.0, 1.0, 3.0]),
        ("reflection", [2.0, 1.5, 2.75]),
        ("symmetric", [1.0, 1.0, 3.0]),
    ] {
        let y = run(
            "resample",
            &[
                ("x", floats(&[1, 1, 1, 3], &[1.0, 2.0, 3.0])),
                ("coordinates", floats(&[1, 1, 3, 2], &[-1.0, 0.0, -0.5, 0.0, 2.25, 0.0])),
                ("sampling_mode", text("bilinear")),
                ("padding_mode", text(padding)),
                ("padding_value", floats(&[], &[9.0])),
                ("coordinates_mode", text("unnormalized")),
                ("align_corners", Tensor::bool(false)),
            ],
        );
        assert_near(padding, &y.unwrap(), &expected);
    }
}

#[test]
fn types_of_what_is_not_run() {
    let mut b = Builder::new(Version::V1_3);
    let mut input = |name: &str, dtype, shape: &[usize]| b.input(name, TensorType::new(dtype, shape)).unwrap();
    let (boxes, scores) = (input("boxes", DType::Fp32, &[2, 4, 9]), input("scores", DType::Fp32, &[2, 3, 9]));
    let call = b.call("non_maximum_suppression").arg("boxes", boxes).arg("scores", scores);
    let outs = call.constant("iou_threshold", floats(&[], &[0.5])).constant("max_boxes", scalar(5)).finish_many();
    let shapes: Vec<Vec<usize>> = outs.unwrap().into_iter().map(|v| b.shape(v).unwrap()).collect();
    assert_eq!(shapes, [vec![2, 4, 5], vec![2, 3, 5], vec![2, 5]]);

    let class = Type::Tensor(TensorType::scalar(DType::String));
    let probabilities = Type::Tensor(TensorType::new(DType::Fp32, &[1, 2]));
    let classify = |n: u64| {
        let classes = Type::List(Box::new(class.clone()), Some(n));
        let bind = |ty| Some(Operand::One(Bound { ty, value: None, constant: true }));
        let def = find("classify", Opset::Ios15).unwrap().unwrap();
        infer(&Args { def, operands: vec![bind(&probabilities), bind(&classes)] })
    };
    let probability = Type::Tensor(TensorType::scalar(DType::Fp64));
    let dict = Type::Dict(Box::new(class.clone()), Box::new(probability));
    assert_eq!(classify(2).unwrap(), [class.clone(), dict]);
    assert!(classify(3).is_err());
}

#[test]
fn open_sizes_stay_open_and_are_known_when_the_program_runs() {
    let x = || floats(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let y = run_open(x(), |b, x| b.reshape(x, &[3, 2]));
    assert_near("reshape", &y, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let y = run_open(x(), |b, x| b.concat(&[x, x], 0));
    assert_eq!(y.shape(), [4, 3]);
    let y = run_open(x(), |b, x| {
        let call = b.call("slice_by_index").arg("x", x).constant("begin", vector(&[-1, 0]));
        call.constant("end", vector(&[0, 2])).constant("end_mask", bools(&[1, 0])).finish()
    });
    assert_near("slice_by_index", &y, &[4.0, 5.0]);
    let y = run_open(x(), |b, x| b.call("tile").arg("x", x).constant("reps", vector(&[2, 1])).finish());
    assert_eq!(y.shape(), [4, 3]);
    // The shape comes from the program itself.
    let y = run_open(x(), |b, x| {
        let shape = b.call("shape").arg("x", x).finish()?;
        b.call("fill").arg("shape", shape).constant("value", floats(&[], &[7.0])).finish()
    });
    assert_near("fill", &y, &[7.0; 6]);
    let y = run_open(x(), |b, x| {
        let call = b.call("gather").arg("x", x).constant("indices", vector(&[1, -2])).constant("axis", scalar(0));
        call.finish()
    });
    assert_near("gather", &y, &[4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
    let y = run_open(floats(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]), |b, x| {
        b.call("upsample_nearest_neighbor").arg("x", x).constant("scale_factor_width", scalar(2)).finish()
    });
    assert_near("upsample_nearest_neighbor", &y, &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
}

#[test]
fn hostile_sizes_are_refused() {
    let huge = i64::from(i32::MAX);
    let image = || ("x", floats(&[1, 1, 1, 1], &[1.0]));
    let row = || ("x", floats(&[1, 1, 1], &[1.0]));
    let cases: &[(&str, &[(&'static str, Tensor)])] = &[
        ("fill", &[("shape", vector(&[huge, huge, huge])), ("value", floats(&[], &[0.0]))]),
        ("fill", &[("shape", vector(&[-1])), ("value", floats(&[], &[0.0]))]),
        ("tile", &[row(), ("reps", vector(&[huge, huge, huge]))]),
        ("one_hot", &[("indices", counted(&[9])), ("one_hot_vector_size", scalar(huge))]),
        ("range_1d", &[("start", scalar(0)), ("end", scalar(huge)), ("step", scalar(1))]),
        (
            "range_1d",
            &[("start", floats(&[], &[0.0])), ("end", floats(&[], &[1e300])), ("step", floats(&[], &[1e-9]))],
        ),
        ("pad", &[row(), ("pad", vector(&[huge, huge, huge, huge]))]),
        ("resize_bilinear", &[row(), ("target_size_height", scalar(huge)), ("target_size_width", scalar(huge))]),
        ("upsample_bilinear", &[row(), ("scale_factor_height", floats(&[], &[f64::INFINITY]))]),
        ("upsample_nearest_neighbor", &[row(), ("scale_factor_height", floats(&[], &[1e38]))]),
        ("crop", &[row(), ("crop_height", vector(&[huge, huge])), ("crop_width", vector(&[0, 0]))]),
        ("depth_to_space", &[image(), ("block_size", scalar(huge))]),
        ("space_to_depth", &[image(), ("block_size", scalar(huge))]),
        ("space_to_batch", &[image(), ("block_shape", vector(&[1, 1])), ("paddings", ints(&[2, 2], &[huge; 4]))]),
        ("sliding_windows", &[row(), ("axis", scalar(0)), ("size", scalar(huge))]),
        ("slice_by_size", &[row(), ("begin", vector(&[0, 0, 0])), ("size", vector(&[1, 1, huge]))]),
        ("gather", &[("x", vector(&[])), ("indices", counted(&[3]))]),
        ("reverse_sequence", &[row(), ("lengths", vector(&[huge]))]),
        (
            "crop_resize",
            &[
                ("x", Tensor::zeros(DType::Fp32, &[1, 0, 1, 1])),
                ("boxes", floats(&[1, 4], &[0.0; 4])),
                ("target_height", scalar(huge)),
                ("target_width", scalar(huge)),
            ],
        ),
    ];
    for (op, args) in cases {
        let result = run(find(op, Opset::Ios18).unwrap().unwrap().name, args);
        assert!(result.is_err(), "{op} gives {:?}", result.map(|t| t.ty().to_string()));
    }
}

#[test]
fn numbers_that_stand_for_all_are_one_and_axes_that_go_have_size_1() {
    let hot = |name| {
        run("one_hot", &[("indices", vector(&[0])), ("one_hot_vector_size", scalar(3)), (name, vector(&[5, 6]))])
            .unwrap_err()
            .to_string()
    };
    assert!(hot("on_value").contains("`on_value` has type int32 [2], expected a scalar"), "{}", hot("on_value"));
    assert!(
        hot("off_value").contains("`off_value` has type int32 [2], expected a scalar"),
        "{}",
        hot("off_value")
    );
    let e = run("fill", &[("shape", vector(&[2])), ("value", vector(&[5, 6]))]).unwrap_err().to_string();
    assert!(e.contains("`value` has type int32 [2], expected a scalar"), "{e}");

    let e = run("squeeze", &[("x", counted(&[2, 1])), ("axes", vector(&[0]))]).unwrap_err().to_string();
    assert!(e.contains("names axis 0"), "{e}");
    let squeezed = |n| {
        run_open(counted(&[n, 1, 3]), |b, x| b.call("squeeze").arg("x", x).constant("axes", vector(&[0])).finish())
    };
    assert_eq!(squeezed(1).shape(), [1, 3]);

    let e =
        run("transpose", &[("x", counted(&[2, 3])), ("perm", vector(&[-7, 1, -9, 0]))]).unwrap_err().to_string();
    assert!(e.contains("expected an order of 2 axes"), "{e}");
    let mut b = Builder::new(Version::V1_3);
    let values = [vector(&[1, 2]), scalar(3)].map(|t| b.constant(t));
    let e = b.call("concat").args("values", &values).constant("axis", scalar(0)).finish().unwrap_err().to_string();
    assert!(e.contains("concat"), "{e}");
}

#[test]
fn nan_is_never_replaced() {
    let [inf, nan] = [f64::INFINITY, f64::NAN];
    for (mode, expected) in [("max", [inf, inf, nan, nan]), ("min", [2.0, 5.0, nan, nan])] {
        let data = ("data", floats(&[4], &[inf, 5.0, nan, 1.0]));
        let (indices, updates) =
            (("indices", vector(&[0, 1, 2, 3])), ("updates", floats(&[4], &[2.0, inf, 1.0, nan])));
        let y = run("scatter", &[data, indices, updates, ("mode", text(mode))]).unwrap();
        let bits = |xs: &[f64]| {
            xs.iter().map(|x| if x.is_nan() { nan.to_bits() } else { x.to_bits() }).collect::<Vec<_>>()
        };
        assert_eq!(bits(y.floats().unwrap()), bits(&expected), "{mode}");
    }
}
