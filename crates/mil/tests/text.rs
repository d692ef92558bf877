//! The grammar: what the parser makes of each part of it, and that printing gives it back.

use anemone_mil::ir::{
    ArgValue, BlobRef, Constant, DType, Dim, Literal, Opset, Program, TensorType, Type, Version,
};
use anemone_mil::tensor::Tensor;
use anemone_mil::text::{parse, print};

#[track_caller]
fn parsed(source: &str) -> Program {
    parse(source).unwrap_or_else(|e| panic!("{}", e.render("test.mil", source)))
}

/// A program in coremlc's layout with one statement.
fn program(version: &str, statement: &str) -> String {
    format!(
        "program({version})\n{{\n    func main<ios17>(tensor<fp16, [1]> x) {{\n            {statement}\n        }} -> (x);\n}}"
    )
}

/// The constant that `text` spells.
#[track_caller]
fn constant(text: &str) -> Constant {
    let program = parsed(&program("1.3", &format!("const()[val = {text}];")));
    program.functions[0].body.calls[0].attributes[0].1.clone()
}

fn scalar(dtype: DType) -> Type {
    Type::Tensor(TensorType::scalar(dtype))
}

#[test]
fn every_statement_is_printed_as_it_was_read() {
    let common = [
        "tensor<fp16, [1, ?]> y = relu(x = x);",
        "tensor<fp16, [1]> y = relu<ios15>(x = x);",
        "tensor<fp16, [1]> a, tensor<fp16, [2]> b = split(x = x);",
        "tensor<fp16, [2]> y = concat(values = (x, x));",
        "list<tensor<fp32, [2]>, 2> y = make_list();",
        "list<tensor<fp32, [2]>, ?> y = make_list();",
        "tuple<tensor<fp32, [2]>, dict<tensor<fp32, [2]>, tensor<fp32, [2]>>> y = f();",
        "state<tensor<fp16, [2]>> y = f();",
        "write_state(data = x, input = y);",
        "tensor_buffer<fp16, shape=[16, 1], strides=[64, 1], interleave_factors=[1, 1]> y = f();",
        "tensor<int4, [2, 2]> y = const()[val = tensor<int4, [2, 2]>([[-8, 7], [0, 1]])];",
        "tensor<fp32, [2]> y = const()[val = tensor<fp32, [2]>([-inf, nan])];",
        "tensor<fp32, [0, 2]> y = const()[val = tensor<fp32, [0, 2]>([])];",
        "tensor<fp32, [2, 0]> y = const()[val = tensor<fp32, [2, 0]>([[], []])];",
        "tensor<uint64, [1]> y = const()[val = tensor<uint64, [1]>([18446744073709551615])];",
        "f()[a = list<tensor<int32, [2]>, ?>([[0, 1], [2, 3]]), b = list<tensor<int32, [1]>, 0>([])];",
        "f()[a = tensor<int32, [?]>([1, 2, 3])];",
    ];
    for statement in common {
        for version in ["1.0", "1.3"] {
            let source = program(version, statement);
            assert_eq!(print(&parsed(&source)), source);
        }
    }
    for (version, statement) in [
        ("1.0", r#"tensor<bool, []> y = const()[val = tensor<bool, []>(true)];"#),
        ("1.3", r#"bool y = const()[val = bool(true)];"#),
        (
            "1.3",
            r#"f(a = string("q\"\\\n\r\t\0é"), b = (x, int32(-1)), c = dict<string, fp64>({{"k", 0x1p-3}}));"#,
        ),
        ("1.3", r#"f(a = dict<string, string>({}), b = tuple<int32, string>((1, "a")));"#),
        (
            "1.0",
            r#"f()[a = tensor<fp16, [2]>(BLOBFILE(path = tensor<string, []>("w.bin"), offset = tensor<uint64, []>(64)))];"#,
        ),
        ("1.3", r#"f(a = tensor<fp16, [2]>(BLOBFILE(path = string("w.bin"), offset = uint64(64))));"#),
    ] {
        let source = program(version, statement);
        assert_eq!(print(&parsed(&source)), source);
    }
}

#[test]
fn nested_blocks_are_laid_out_and_indented() {
    let source = "\
program(1.3)
[buildInfo = dict<string, string>({{\"coremlc-version\", \"0\"}})]
{
    func main<ios18>(tensor<fp32, [1]> a) [Rank = int32(1)] {
            tensor<fp32, [1]> y = while_loop(loop_vars = a) (tensor<fp32, [1]> i) {
                tensor<bool, []> c = less(x = i, y = a);
            } -> (c) (tensor<fp32, [1]> i) {
                tensor<fp32, [1]> z = cond(pred = p)[name = string(\"c\")] () {
                    tensor<fp32, [1]> t = exp(x = i);
                } -> (t) () {
                } -> (i);
            } -> (z);
        } -> (y);
    func other<ios18>() {
        } -> ();
}"
    .replace("tensor<bool, []>", "bool");
    let program = parsed(&source);
    assert_eq!(print(&program), source);
    let outer = &program.functions[0].body.calls[0];
    assert_eq!((outer.blocks[1].params[0].name.as_str(), outer.blocks[1].outputs[0].name.as_str()), ("i", "z"));
    // A block that takes nothing may stand without parentheses.
    assert_eq!(parsed(&source.replace("] () {", "] {")), program);
}

#[test]
fn layout_comments_and_spelling_of_scalars_do_not_matter() {
    let coremlc = program("1.3", "f(a = int32(1), b = tensor<fp16, [2]>([0x1p-1, 0x1p+3]));");
    for other in [
        coremlc.replace(['\n'], " "),
        coremlc.replace("  ", "").replace(" = ", "=").replace(", ", ","),
        coremlc.replace('\n', "\r\n// a comment \" {\r\n"),
        coremlc.replace("int32(1)", "tensor<int32, []>(1)"),
        coremlc.replace("0x1p-1", "0.5").replace("0x1p+3", "8"),
        format!("\u{feff}{coremlc}\n//"),
    ] {
        assert_eq!(print(&parsed(&other)), coremlc, "{other}");
    }
    let bare = program("1.0", "f()[a = int32(1)];");
    assert_eq!(parsed(&bare), parsed(&bare.replace("int32(1)", "tensor<int32, []>(1)")));
}

#[test]
fn constants_are_what_their_text_says() {
    for (text, dtype, elements) in [
        ("fp16(0.1)", DType::Fp16, 0.0999755859375),
        ("fp16(70000)", DType::Fp16, f64::INFINITY),
        ("fp32(0.1)", DType::Fp32, 0.1f32.into()),
        ("bf16(0x1.8p-1)", DType::Bf16, 0.75),
        ("fp8e4m3fn(448)", DType::Fp8E4M3Fn, 448.0),
        ("fp64(4.0960000000000001e-05)", DType::Fp64, 4.096e-5),
    ] {
        assert_eq!(constant(text), Constant::tensor(Tensor::float(dtype, &[], vec![elements])), "{text}");
    }
    for dtype in DType::ALL.into_iter().filter(|d| d.is_int()) {
        let (low, high) = dtype.int_range().unwrap();
        let expected = Constant::tensor(Tensor::int(dtype, &[2], vec![low as i64, high as i64]));
        assert_eq!(constant(&format!("tensor<{dtype}, [2]>([{low}, {high}])")), expected);
        for outside in [low - 1, high + 1] {
            assert!(parse(&program("1.3", &format!("f(a = {dtype}({outside}));"))).is_err(), "{dtype} {outside}");
        }
    }
    assert_eq!(constant("bool(false)"), Constant::tensor(Tensor::bool(false)));
    assert_eq!(constant(r#"string("a\"b\\")"#), Constant::tensor(Tensor::string("a\"b\\")));
    let blob = BlobRef { path: "@model_path/w.bin".into(), offset: u64::MAX };
    assert_eq!(
        constant(
            r#"tensor<int8, [3]>(BLOBFILE(path = string("@model_path/w.bin"), offset = uint64(18446744073709551615)))"#
        ),
        Constant::blob(TensorType::new(DType::Int8, &[3]), blob)
    );
}

#[test]
fn sizes_left_open_are_those_of_the_literal() {
    let open = constant("tensor<int32, [?, 2]>([[1, 2], [3, 4], [5, 6]])");
    assert_eq!(open.value, Literal::Tensor(Tensor::int(DType::Int32, &[3, 2], (1..=6).collect())));
    assert_eq!(open.ty, Type::Tensor(TensorType { dtype: DType::Int32, shape: vec![Dim::Any, Dim::Fixed(2)] }));
    let empty = constant("tensor<int32, [?, ?]>([])");
    assert_eq!(empty.as_tensor().map(Tensor::shape), Some(&[0, 0][..]));
    assert!(parse(&program("1.3", "f(a = tensor<int32, [?, ?]>([[1, 2], [3]]));")).is_err());
}

#[test]
fn types_and_spans_are_kept() {
    let source = "program(1.0){func f<ios16>(list<int32, 3> a){state<fp16> s, dict<string, tuple<bool>> d = \
                  op<ios15>(k = a)[];} -> (d);}";
    let program = parsed(source);
    let function = &program.functions[0];
    assert_eq!((program.version, function.opset), (Version::V1_0, Opset::Ios16));
    assert_eq!(function.params[0].ty, Type::List(Box::new(scalar(DType::Int32)), Some(3)));
    let call = &function.body.calls[0];
    assert_eq!(call.opset, Some(Opset::Ios15));
    assert_eq!(call.outputs[0].ty, Type::State(TensorType::scalar(DType::Fp16)));
    let tuple = Type::Tuple(vec![scalar(DType::Bool)]);
    assert_eq!(call.outputs[1].ty, Type::Dict(Box::new(scalar(DType::String)), Box::new(tuple)));
    assert_eq!(call.args[0].value, ArgValue::Name("a".into()));
    for (span, text) in [
        (function.span, "f"),
        (function.params[0].span, "a"),
        (call.outputs[1].span, "d"),
        (call.span, "op"),
        (call.args[0].span, "k = a"),
        (function.body.outputs[0].span, "d"),
    ] {
        assert_eq!(&source[span.start as usize..span.end as usize], text);
    }
}

#[test]
fn words_of_the_language_are_names_where_a_name_stands() {
    let source = program(
        "1.3",
        "tensor<fp16, [1]> tensor = list(string = x, fp16 = string, func = func)[program = int32(1)];",
    );
    assert_eq!(print(&parsed(&source)), source);
}

#[test]
fn constants_in_place_get_names_in_1_0_that_nothing_else_has() {
    let source = program("1.3", "fp16 y = concat(axis = int32(0), values = (x, fp16(1), y_axis));")
        .replace("func main<ios17>(", "func main<ios18>(int32 y_axis, ");
    let lowered = parsed(&source).to_version(Version::V1_0).unwrap();
    assert_eq!(
        print(&lowered),
        r#"program(1.0)
{
    func main<ios17>(tensor<int32, []> y_axis, tensor<fp16, [1]> x) {
            tensor<int32, []> y_axis_1 = const()[name = tensor<string, []>("y_axis_1"), val = tensor<int32, []>(0)];
            tensor<fp16, []> y_values_1 = const()[name = tensor<string, []>("y_values_1"), val = tensor<fp16, []>(0x1p+0)];
            tensor<fp16, []> y = concat(axis = y_axis_1, values = (x, y_values_1, y_axis));
        } -> (x);
}"#
    );
}

#[test]
fn parameters_of_constexpr_ops_are_attributes_in_1_0() {
    let source = program(
        "1.3",
        r#"string d = const()[val = string("fp32")];
            tensor<fp32, [1]> y = constexpr_cast(output_dtype = d, source_val = tensor<fp16, [1]>([0x1p+0]))[name = string("y")];"#,
    );
    let lowered = print(&parsed(&source).to_version(Version::V1_0).unwrap());
    let expected = "constexpr_cast()[name = tensor<string, []>(\"y\"), output_dtype = tensor<string, []>(\"fp32\"), \
                    source_val = tensor<fp16, [1]>([0x1p+0])]";
    assert!(lowered.contains(expected), "{lowered}");
}

#[test]
fn blocks_beside_each_other_keep_constants_of_one_name_apart() {
    let block = |x: &str| {
        format!(
            "() {{ tensor<fp16, [1]> w = const()[val = tensor<fp16, [1]>([{x}])];
                tensor<fp32, [1]> a = constexpr_cast(output_dtype = d, source_val = w); }} -> (a)"
        )
    };
    let source = program(
        "1.3",
        &format!(
            "string d = const()[val = string(\"fp32\")];
            tensor<fp32, [1]> y = cond(pred = x) {} {};",
            block("0x1p+0"),
            block("0x1p+1")
        ),
    );
    let lowered = print(&parsed(&source).to_version(Version::V1_0).unwrap());
    let at = |what: &str| lowered.find(what).unwrap_or_else(|| panic!("{what} in {lowered}"));
    let attribute = |x: &str| format!("source_val = tensor<fp16, [1]>([{x}])");
    assert!(at(&attribute("0x1p+0")) < at(&attribute("0x1p+1")));
}

#[test]
fn ops_and_parameters_that_the_other_version_lacks_are_named() {
    let attention = "tensor<fp16, [1]> y = scaled_dot_product_attention(key = x, query = x, value = x);";
    let source = program("1.3", attention).replace("main<ios17>", "main<ios18>");
    let e = parsed(&source).to_version(Version::V1_0).unwrap_err().to_string();
    assert!(e.contains("op `scaled_dot_product_attention` comes with ios18"), "{e}");
    let source = program("1.0", "tensor<fp16, [1]> y = crop_resize(roi = x, x = x);");
    let source = source.replace("main<ios17>", "main<ios16>");
    let e = parsed(&source).to_version(Version::V1_3).unwrap_err().to_string();
    assert!(e.contains("op `crop_resize` has no parameter `roi` in ios17"), "{e}");
}

#[test]
fn op_sets_follow_the_version_and_what_1_0_lacks_is_named() {
    let source = program("1.0", "relu<ios15>(x = x);").replace("main<ios17>", "main<ios15>");
    let raised = parsed(&source).to_version(Version::V1_3).unwrap();
    assert_eq!(raised.functions[0].opset, Opset::Ios17);
    assert_eq!(raised.functions[0].body.calls[0].opset, Some(Opset::Ios17));

    for (statement, named) in [
        ("state<tensor<fp16, [2]>> y = f();", "`state<fp16 [2]>`"),
        ("tensor<int4, [2]> y = f();", "`int4`"),
        ("f(a = fp8e5m2(1));", "`fp8e5m2`"),
        ("f()[a = list<uint1, 0>([])];", "`uint1`"),
        ("f() () { tensor<uint3, [2]> y = f(); } -> ();", "`uint3`"),
        ("tensor<fp16, [2]> y = constexpr_lut_to_dense(indices = x, lut = x);", "`constexpr_lut_to_dense`"),
        ("tensor<fp16, [2]> y = constexpr_cast(source_val = x);", "`source_val`"),
    ] {
        let error = parsed(&program("1.3", statement)).to_version(Version::V1_0).unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains(named), "{statement}: {error}");
    }
}

#[test]
fn normalize_sorts_what_has_no_order() {
    let mut program = parsed(
        "program(1.3){func main<ios18>(fp16 b, fp16 a){while(y = b, x = (a))[n = int32(1), m = int32(2)]\
         (fp16 j, fp16 i){f(y = a, x = (b, a));}->(j, i);}->(b, a);}",
    );
    program.normalize();
    let expected = parsed(
        "program(1.3){func main<ios18>(fp16 a, fp16 b){while(x = a, y = b)[m = int32(2), n = int32(1)]\
         (fp16 j, fp16 i){f(x = (b, a), y = a);}->(j, i);}->(b, a);}",
    );
    assert_eq!(program, expected);
}
