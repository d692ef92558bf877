//! Convolution, pooling, recurrence, compressed weights.

use super::*;

fn of(dtype: DType, shape: &[usize], xs: &[i64]) -> Tensor {
    Tensor::int(dtype, shape, xs.to_vec())
}

fn text(s: &str) -> Tensor {
    Tensor::string(s)
}

/// All outputs of a call on constants.
fn run_all(op: &'static str, args: &[(&'static str, Tensor)]) -> Result<Vec<Tensor>, Error> {
    let mut b = Builder::new(Version::V1_3);
    let mut call = b.call(op);
    for (name, t) in args {
        call = call.constant(name, t.clone());
    }
    let ys = call.finish_many()?;
    let program = validate(b.finish(&ys)?, &Limits::none())?;
    Interpreter::new(&program, &Weights::new())?.run(&[])
}

#[test]
fn convolutions() {
    let x = ("x", floats(&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]));
    let w = ("weight", floats(&[1, 1, 2], &[10.0, 1.0]));
    let same = |pad_type| run("conv", &[x.clone(), w.clone(), ("pad_type", text(pad_type))]).unwrap();
    // The odd element of padding comes last, or first.
    assert_near("same", &same("same"), &[12.0, 23.0, 34.0, 40.0]);
    assert_near("same_lower", &same("same_lower"), &[1.0, 12.0, 23.0, 34.0]);

    let spread = |more: &[(&'static str, Tensor)]| {
        run("conv_transpose", &[&[x.clone(), w.clone(), ("strides", ints(&[1], &[3]))], more].concat()).unwrap()
    };
    let full = [10.0, 1.0, 0.0, 20.0, 2.0, 0.0, 30.0, 3.0, 0.0, 40.0, 4.0, 0.0];
    assert_near("conv_transpose valid", &spread(&[]), &full[..11]);
    assert_near("conv_transpose same", &spread(&[("pad_type", text("same"))]), &full);
    let pad = [("pad_type", text("custom")), ("pad", ints(&[2], &[1, 3]))];
    assert_near("conv_transpose custom", &spread(&pad), &full[1..8]);

    let quantized = run(
        "conv_quantized",
        &[
            x,
            ("weight", of(DType::UInt8, &[2, 1, 1], &[3, 200])),
            ("quantization_type", text("linear")),
            ("quant_scale", floats(&[2], &[2.0, 0.5])),
            ("quant_bias", floats(&[1], &[-1.0])),
        ],
    );
    assert_near("conv_quantized", &quantized.unwrap(), &[5.0, 10.0, 15.0, 20.0, 99.0, 198.0, 297.0, 396.0]);
}

#[test]
fn pools() {
    let pool = |op, more: &[(&'static str, Tensor)]| {
        let x = ("x", floats(&[1, 1, 6], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        let usual = [x, ("kernel_sizes", ints(&[1], &[3])), ("strides", ints(&[1], &[2]))];
        run(op, &[&usual[..], more].concat()).unwrap()
    };
    let flag = |name| (name, bools(&[1]).reshaped(&[]).unwrap());
    let padded = [("pad_type", text("custom")), ("pad", ints(&[2], &[1, 1]))];
    let valid = ("pad_type", text("valid"));
    assert_near("avg_pool", &pool("avg_pool", &padded), &[1.0, 3.0, 5.0]);
    let excluding = [&padded[..], &[flag("exclude_padding_from_average")]].concat();
    assert_near("avg_pool", &pool("avg_pool", &excluding), &[1.5, 3.0, 5.0]);
    assert_near("max_pool", &pool("max_pool", &padded), &[2.0, 4.0, 6.0]);
    assert_near("max_pool", &pool("max_pool", std::slice::from_ref(&valid)), &[3.0, 5.0]);
    // The last window ends behind the image and is cut there.
    assert_near("max_pool", &pool("max_pool", &[valid.clone(), flag("ceil_mode")]), &[3.0, 5.0, 6.0]);
    assert_near("avg_pool", &pool("avg_pool", &[valid.clone(), flag("ceil_mode")]), &[2.0, 4.0, 5.5]);
    assert_near("l2_pool", &pool("l2_pool", &[valid]), &[14f64.sqrt(), 50f64.sqrt()]);
}

#[test]
fn recurrent_layers() {
    // One element of input and state, relu and linear instead of the usual functions, so that numbers stay whole.
    let one = |name| (name, floats(&[1, 1], &[1.0]));
    let plain = [("activation", text("linear")), ("recurrent_activation", text("relu"))];
    let sequence = ("output_sequence", bools(&[1]).reshaped(&[]).unwrap());
    let x = ("x", floats(&[2, 1, 1], &[1.0, 2.0]));

    // c = (2 x) c + (1 x) (4 x), clipped to 10; h = (3 x + h) c.
    let lstm = [
        x.clone(),
        one("initial_h"),
        one("initial_c"),
        ("weight_ih", floats(&[4, 1], &[1.0, 2.0, 3.0, 4.0])),
        ("weight_hh", floats(&[4, 1], &[0.0, 0.0, 1.0, 0.0])),
        ("cell_activation", text("linear")),
        ("clip", floats(&[], &[10.0])),
        sequence.clone(),
    ];
    let out = run_all("lstm", &[&lstm[..], &plain].concat()).unwrap();
    // c: 2 + 4 = 6, then 24 + 16 clipped; h: (3 + 1) 6 = 24, then (6 + 24) 10.
    assert_near("lstm", &out[0], &[24.0, 300.0]);
    assert_near("lstm", &out[2], &[10.0]);
    // The last step first, and so in the output: c = 4 + 16 clipped, h = 7 10; c = 20 + 4 clipped, h = 73 10.
    let out = run_all("lstm", &[&lstm[..], &plain, &[("direction", text("reverse"))]].concat()).unwrap();
    assert_near("lstm", &out[0], &[70.0, 730.0]);

    // r = x, z = x; o = x + 2 r h, or with a bias inside of 1 o = x + r (2 h + 1); h = (1 - z) o + z h.
    let gru = [
        x,
        ("initial_h", floats(&[1, 1], &[3.0])),
        ("weight_ih", floats(&[3, 1], &[1.0, 1.0, 1.0])),
        ("weight_hh", floats(&[3, 1], &[0.0, 2.0, 0.0])),
        ("bias", floats(&[3], &[0.0, 1.0, 0.0])),
        sequence,
    ];
    let out = run_all("gru", &[&gru[..], &plain].concat()).unwrap();
    // z = 1 keeps 3; then o = 2 + 2 2 3 + 1 = 15, h = -15 + 2 3.
    assert_near("gru", &out[0], &[3.0, -9.0]);
    let after = ("reset_after", bools(&[1]).reshaped(&[]).unwrap());
    let out = run_all("gru", &[&gru[..], &plain, &[after]].concat()).unwrap();
    // o = 2 + 2 (2 3 + 1) = 16, h = -16 + 2 3.
    assert_near("gru", &out[0], &[3.0, -10.0]);
}

#[test]
fn compressed_weights() {
    // Two palettes of four numbers, one for each half of the rows.
    let lut = floats(&[2, 1, 4, 1], &[1.0, 5.0, 9.0, 13.0, 2.0, 10.0, 18.0, 26.0]);
    let indices = of(DType::UInt2, &[6, 2], &[2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3]);
    let y = run("constexpr_lut_to_dense", &[("indices", indices), ("lut", lut)]).unwrap();
    assert_near("palettes", &y, &[9.0, 13.0, 13.0, 1.0, 5.0, 1.0, 26.0, 2.0, 18.0, 10.0, 2.0, 26.0]);

    // Entries that are vectors of two, along the rows.
    let lut = floats(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let vector = [("lut", lut), ("vector_axis", ints(&[], &[0]))];
    let indices = ("indices", of(DType::UInt1, &[1, 2], &[1, 0]));
    let y = run("constexpr_lut_to_dense", &[&[indices], &vector[..]].concat()).unwrap();
    assert_eq!(y, floats(&[2, 2], &[3.0, 1.0, 4.0, 2.0]));
    let sparse = [
        ("indices_mask", of(DType::UInt1, &[1, 3], &[1, 0, 1])),
        ("indices_nonzero_data", of(DType::UInt1, &[2], &[0, 1])),
    ];
    let ys = run_all("constexpr_lut_to_sparse", &[&sparse, &vector[..]].concat()).unwrap();
    assert_eq!(ys, [of(DType::UInt1, &[2, 3], &[1, 0, 1, 1, 0, 1]), floats(&[4], &[1.0, 3.0, 2.0, 4.0])]);

    let blocks = [
        ("data", of(DType::Int4, &[2, 4], &[-8, 7, 1, 2, 3, 4, 5, 6])),
        ("scale", floats(&[1, 2], &[0.5, 10.0])),
        ("offset", of(DType::Int4, &[1, 2], &[-2, 1])),
    ];
    let y = run("constexpr_blockwise_shift_scale", &blocks).unwrap();
    assert_near("blocks", &y, &[-3.0, 4.5, 0.0, 10.0, 2.5, 3.0, 40.0, 50.0]);

    let input = ("input", floats(&[2, 3], &[0.5, 1.5, -2.5, 1000.0, -1000.0, 3.0]));
    let scale = [("scale", floats(&[2], &[1.0, 2.0])), ("zero_point", of(DType::Int8, &[2], &[10, 0]))];
    let rest = [("axis", ints(&[], &[0])), ("output_dtype", text("int8"))];
    let q = run("quantize", &[&[input], &scale[..], &rest].concat()).unwrap();
    assert_eq!(q, of(DType::Int8, &[2, 3], &[10, 12, 8, 127, -128, 2]));
    let x = run("dequantize", &[&[("input", q), ("axis", ints(&[], &[0]))], &scale[..]].concat()).unwrap();
    assert_near("dequantize", &x, &[0.0, 2.0, -2.0, 254.0, -256.0, 4.0]);
}

#[test]
fn a_decompressed_weight_is_a_constant() {
    let mut b = Builder::new(Version::V1_3);
    let x = b.input("x", TensorType::new(DType::Fp32, &[1, 2])).unwrap();
    let mask = of(DType::UInt1, &[1, 2], &[0, 1]);
    let call = b.call("constexpr_sparse_to_dense").constant("nonzero_data", floats(&[1], &[3.0]));
    let weight = call.constant("mask", mask).finish().unwrap();
    let y = b.call("linear").arg("x", x).arg("weight", weight).finish().unwrap();
    let program = validate(b.finish(&[y]).unwrap(), &Limits::none()).unwrap();
    let out = Interpreter::new(&program, &Weights::new()).unwrap().run(&[floats(&[1, 2], &[5.0, 7.0])]).unwrap();
    assert_near("linear", &out[0], &[21.0]);

    let mut b = Builder::new(Version::V1_3);
    let x = b.input("x", TensorType::new(DType::Fp32, &[1, 2])).unwrap();
    let y = b.call("linear").arg("x", x).arg("weight", x).finish().unwrap();
    let e = validate(b.finish(&[y]).unwrap(), &Limits::none()).unwrap_err().to_string();
    assert!(e.contains("`weight` must be a constant"), "{e}");
}

#[test]
fn products_of_two_element_types_have_that_of_the_variable() {
    for x_is_constant in [true, false] {
        let mut b = Builder::new(Version::V1_3);
        let input = b.input("in", TensorType::new(DType::Fp16, &[2, 2])).unwrap();
        let constant = b.constant(floats(&[2, 2], &[1.0; 4]));
        let (x, y) = if x_is_constant { (constant, input) } else { (input, constant) };
        let z = b.matmul(x, y, false, false).unwrap();
        assert_eq!(b.tensor_ty(z).unwrap().dtype, DType::Fp16);
        assert!(
            b.input("other", TensorType::new(DType::Fp32, &[2, 2]))
                .is_ok_and(|o| b.matmul(o, input, false, false).is_err())
        );
    }
}

/// Sizes that overflow, or ask for more than there is, give errors: no panic, and nothing is allocated for them.
#[test]
fn hostile_sizes_are_refused() {
    const MAX: i64 = i32::MAX as i64;
    let x = || ("x", floats(&[1, 1, 2], &[1.0, 2.0]));
    let w = || ("weight", floats(&[1, 1, 2], &[1.0, 1.0]));
    let custom = ("pad_type", text("custom"));
    let cases: &[(&'static str, Vec<(&'static str, Tensor)>)] = &[
        ("conv", vec![x(), w(), custom.clone(), ("pad", ints(&[2], &[MAX, MAX]))]),
        ("conv", vec![x(), w(), custom.clone(), ("pad", ints(&[2], &[-1, 0]))]),
        ("conv", vec![x(), w(), custom, ("pad", ints(&[1], &[1]))]),
        ("conv", vec![x(), w(), ("dilations", ints(&[1], &[MAX]))]),
        ("conv", vec![x(), w(), ("strides", ints(&[1], &[0]))]),
        ("conv", vec![x(), w(), ("groups", ints(&[], &[MAX]))]),
        ("conv_transpose", vec![x(), w(), ("strides", ints(&[1], &[MAX])), ("dilations", ints(&[1], &[MAX]))]),
        ("conv_transpose", vec![x(), w(), ("output_shape", ints(&[3], &[1, 1, MAX]))]),
        ("conv_transpose", vec![x(), w(), ("output_shape", ints(&[1], &[1]))]),
        ("max_pool", vec![x(), ("pad_type", text("valid")), ("kernel_sizes", ints(&[1], &[MAX]))]),
        ("max_pool", vec![x(), ("pad_type", text("valid")), ("kernel_sizes", ints(&[2], &[1, 1]))]),
        ("make_list", vec![("init_length", ints(&[], &[MAX])), ("elem_shape", ints(&[], &[1]))]),
        ("make_list", vec![("elem_shape", ints(&[], &[-1]))]),
        (
            "quantize",
            vec![("input", floats(&[1], &[1.0])), ("scale", floats(&[], &[0.0])), ("output_dtype", text("int8"))],
        ),
    ];
    for (op, args) in cases {
        assert!(run(op, args).is_err(), "{op} {args:?}");
    }
}
