//! Models built in memory: everything the format can say, and what it must not be able to do.

use super::*;
use crate::tensor::Tensor;
use coreml_proto::proto as core;
use pb::tensor_value::{
    RepeatedBools, RepeatedBytes, RepeatedDoubles, RepeatedFloats, RepeatedInts, RepeatedLongInts,
    RepeatedStrings, Value as Elements,
};
use pb::value::immediate_value::Value as Immediate;

fn map<V>(entries: Vec<(&str, V)>) -> HashMap<String, V> {
    entries.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
}

fn tensor_of(dtype: pb::DataType, shape: &[i64]) -> pb::ValueType {
    let dim = |&n: &i64| {
        use pb::dimension::{ConstantDimension, Dimension as D, UnknownDimension};
        let d = match u64::try_from(n) {
            Ok(size) => D::Constant(ConstantDimension { size }),
            Err(_) => D::Unknown(UnknownDimension { variadic: n < -1 }),
        };
        pb::Dimension { dimension: Some(d) }
    };
    let tensor = pb::TensorType {
        data_type: dtype as i32,
        rank: shape.len() as i64,
        dimensions: shape.iter().map(dim).collect(),
        attributes: HashMap::new(),
    };
    pb::ValueType { r#type: Some(pb::value_type::Type::TensorType(tensor)) }
}

fn list_of(element: pb::ValueType, length: i64) -> pb::ValueType {
    let Some(pb::value_type::Type::TensorType(t)) = tensor_of(pb::DataType::Bool, &[length]).r#type else {
        panic!()
    };
    let list = pb::ListType { r#type: Some(Box::new(element)), length: t.dimensions.first().copied() };
    pb::ValueType { r#type: Some(pb::value_type::Type::ListType(Box::new(list))) }
}

fn state_of(inner: pb::ValueType) -> pb::ValueType {
    let state = pb::StateType { wrapped_type: Some(Box::new(inner)) };
    pb::ValueType { r#type: Some(pb::value_type::Type::StateType(Box::new(state))) }
}

fn immediate(ty: pb::ValueType, value: Immediate) -> pb::Value {
    let value = pb::value::Value::ImmediateValue(pb::value::ImmediateValue { value: Some(value) });
    pb::Value { doc_string: "not kept".into(), r#type: Some(ty), value: Some(value) }
}

fn stored(ty: pb::ValueType, elements: Elements) -> pb::Value {
    immediate(ty, Immediate::Tensor(pb::TensorValue { value: Some(elements) }))
}

fn string(text: &str) -> pb::Value {
    let strings = Elements::Strings(RepeatedStrings { values: vec![text.into()] });
    stored(tensor_of(pb::DataType::String, &[]), strings)
}

fn bools(values: Vec<bool>) -> pb::Value {
    let ty = tensor_of(pb::DataType::Bool, &[values.len() as i64]);
    stored(ty, Elements::Bools(RepeatedBools { values }))
}

fn named(name: &str, ty: pb::ValueType) -> pb::NamedValueType {
    pb::NamedValueType { name: name.into(), r#type: Some(ty) }
}

fn binding(b: pb::argument::binding::Binding) -> pb::argument::Binding {
    pb::argument::Binding { binding: Some(b) }
}

fn names(names: &[&str]) -> pb::Argument {
    let name = |n: &&str| binding(pb::argument::binding::Binding::Name(n.to_string()));
    pb::Argument { arguments: names.iter().map(name).collect() }
}

fn value(v: pb::Value) -> pb::Argument {
    pb::Argument { arguments: vec![binding(pb::argument::binding::Binding::Value(v))] }
}

fn op(ty: &str, inputs: Vec<(&str, pb::Argument)>, outputs: Vec<pb::NamedValueType>) -> pb::Operation {
    pb::Operation { r#type: ty.into(), inputs: map(inputs), outputs, ..Default::default() }
}

fn constant_op(name: &str, v: pb::Value) -> pb::Operation {
    let ty = v.r#type.clone().unwrap();
    pb::Operation { attributes: map(vec![("val", v)]), ..op("const", vec![], vec![named(name, ty)]) }
}

fn function(inputs: Vec<pb::NamedValueType>, operations: Vec<pb::Operation>, outputs: &[&str]) -> pb::Function {
    let outputs = outputs.iter().map(|o| o.to_string()).collect();
    let block = pb::Block { operations, outputs, ..Default::default() };
    let blocks = map(vec![("CoreML8", block)]);
    pb::Function { inputs, opset: "CoreML8".into(), block_specializations: blocks, attributes: HashMap::new() }
}

fn model_of(functions: Vec<(&str, pb::Function)>) -> core::Model {
    let program = pb::Program { version: 1, functions: map(functions), ..Default::default() };
    core::Model { specification_version: 9, r#type: Some(model::Type::MlProgram(program)), ..Default::default() }
}

fn read_model(model: &core::Model) -> Result<Program> {
    read(&model.encode_to_vec())
}

/// A program of that one constant.
fn with_constant(v: pb::Value) -> core::Model {
    model_of(vec![("main", function(vec![], vec![constant_op("c", v)], &["c"]))])
}

fn constant_read(v: pb::Value) -> Result<Constant> {
    let program = read_model(&with_constant(v))?;
    Ok(program.functions[0].body.calls[0].attribute("val").unwrap().clone())
}

#[track_caller]
fn refused(model: &core::Model) -> String {
    let error = read_model(model).unwrap_err();
    assert!(error.is_package());
    error.to_string()
}

#[test]
fn everything_the_language_has_is_read() {
    use pb::DataType::*;
    let (f16, i32s, flag) = (tensor_of(Float16, &[2]), tensor_of(Int32, &[]), tensor_of(Bool, &[]));
    let cond = pb::Operation {
        blocks: vec![
            pb::Block {
                inputs: vec![named("i", i32s.clone())],
                operations: vec![op(
                    "less",
                    vec![("x", names(&["i"])), ("y", names(&["n"]))],
                    vec![named("t", flag)],
                )],
                outputs: vec!["t".into()],
                ..Default::default()
            },
            pb::Block { inputs: vec![named("j", i32s.clone())], outputs: vec!["j".into()], ..Default::default() },
        ],
        ..op("while_loop", vec![("loop_vars", names(&["n"]))], vec![named("last", i32s.clone())])
    };
    let blob = pb::value::BlobFileValue { file_name: "@model_path/weights/weight.bin".into(), offset: 64 };
    let weight = pb::Value {
        r#type: Some(f16.clone()),
        value: Some(pb::value::Value::BlobFileValue(blob)),
        ..Default::default()
    };
    let words = immediate(
        list_of(tensor_of(String, &[]), -1),
        Immediate::List(pb::ListValue { values: vec![string("a"), string("b \"c\"")] }),
    );
    let mut concat = op(
        "concat",
        vec![("values", names(&["w", "now"])), ("interleave", value(bools(vec![false])))],
        vec![named("y", tensor_of(Float16, &[-1]))],
    );
    concat.attributes = map(vec![("name", string("op_y"))]);
    let main = function(
        vec![named("s", state_of(f16.clone())), named("n", i32s)],
        vec![
            constant_op("w", weight),
            constant_op("words", words),
            op("write_state", vec![("input", names(&["s"])), ("data", names(&["w"]))], vec![]),
            op("read_state", vec![("input", names(&["s"]))], vec![named("now", f16.clone())]),
            concat,
            cond,
        ],
        &["y", "last"],
    );
    let mut twice = function(vec![named("x", f16)], vec![], &["x"]);
    twice.opset = "CoreML7".into();
    let block = twice.block_specializations.remove("CoreML8").unwrap();
    twice.block_specializations.insert("CoreML7".into(), block);
    let pair = pb::dictionary_value::KeyValuePair { key: Some(string("k")), value: Some(string("v")) };
    let dict = pb::DictionaryType {
        key_type: Some(Box::new(tensor_of(String, &[]))),
        value_type: Some(Box::new(tensor_of(String, &[]))),
    };
    let dict = pb::ValueType { r#type: Some(pb::value_type::Type::DictionaryType(Box::new(dict))) };
    let info = immediate(dict.clone(), Immediate::Dictionary(pb::DictionaryValue { values: vec![pair] }));
    let tuple =
        pb::ValueType { r#type: Some(pb::value_type::Type::TupleType(pb::TupleType { types: vec![dict] })) };
    twice.attributes =
        map(vec![("Both", immediate(tuple, Immediate::Tuple(pb::TupleValue { values: vec![info.clone()] })))]);

    let mut model = model_of(vec![("again", twice), ("main", main)]);
    let Some(model::Type::MlProgram(program)) = &mut model.r#type else { panic!() };
    program.attributes = map(vec![("buildInfo", info)]);
    let expected = r#"program(1.3)
[buildInfo = dict<string, string>({{"k", "v"}})]
{
    func main<ios18>(state<tensor<fp16, [2]>> s, int32 n) {
            tensor<fp16, [2]> w = const()[val = tensor<fp16, [2]>(BLOBFILE(path = string("@model_path/weights/weight.bin"), offset = uint64(64)))];
            list<string, ?> words = const()[val = list<string, ?>(["a", "b \"c\""])];
            write_state(data = w, input = s);
            tensor<fp16, [2]> now = read_state(input = s);
            tensor<fp16, [?]> y = concat(interleave = tensor<bool, [1]>([false]), values = (w, now))[name = string("op_y")];
            int32 last = while_loop(loop_vars = n) (int32 i) {
                bool t = less(x = i, y = n);
            } -> (t) (int32 j) {
            } -> (j);
        } -> (y, last);
    func again<ios17>(tensor<fp16, [2]> x) [Both = tuple<dict<string, string>>(({{"k", "v"}}))] {
        } -> (x);
}"#;
    let program = read_model(&model).unwrap();
    assert_eq!(program.to_string(), expected);
    assert_eq!(crate::text::parse(expected).unwrap(), program);

    model.specification_version = 8;
    assert_eq!(read_model(&model).unwrap().version, Version::V1_0);
}

#[test]
fn elements_of_every_type_are_read_however_they_are_stored() {
    use DType as T;
    use pb::DataType as D;
    let types = [
        (D::Float16, T::Fp16),
        (D::Float32, T::Fp32),
        (D::Float64, T::Fp64),
        (D::Bfloat16, T::Bf16),
        (D::Float8e4m3fn, T::Fp8E4M3Fn),
        (D::Float8e5m2, T::Fp8E5M2),
        (D::Bool, T::Bool),
        (D::String, T::String),
        (D::Int4, T::Int4),
        (D::Int8, T::Int8),
        (D::Int16, T::Int16),
        (D::Int32, T::Int32),
        (D::Int64, T::Int64),
        (D::Uint1, T::UInt1),
        (D::Uint2, T::UInt2),
        (D::Uint3, T::UInt3),
        (D::Uint4, T::UInt4),
        (D::Uint6, T::UInt6),
        (D::Uint8, T::UInt8),
        (D::Uint16, T::UInt16),
        (D::Uint32, T::UInt32),
        (D::Uint64, T::UInt64),
    ];
    assert_eq!(types.map(|(_, dtype)| dtype), DType::ALL);
    for (code, dtype) in types {
        let ty = tensor_of(code, &[1, 2]);
        let (expected, stored_as) = if dtype.is_float() {
            let x = vec![0.5, -1.0];
            let floats = RepeatedFloats { values: vec![0.5, -1.0] };
            let doubles = RepeatedDoubles { values: x.clone() };
            (Tensor::float(dtype, &[1, 2], x), vec![Elements::Floats(floats), Elements::Doubles(doubles)])
        } else if dtype.is_int() {
            let ints = RepeatedInts { values: vec![0, 1 - i32::from(dtype == T::UInt1)] };
            let longs = RepeatedLongInts { values: ints.values.iter().map(|&x| x.into()).collect() };
            let expected = Tensor::int(dtype, &[1, 2], longs.values.clone());
            (expected, vec![Elements::Ints(ints), Elements::LongInts(longs)])
        } else if dtype == T::Bool {
            let bools = RepeatedBools { values: vec![true, false] };
            (Tensor::int(dtype, &[1, 2], vec![1, 0]), vec![Elements::Bools(bools)])
        } else {
            let strings = RepeatedStrings { values: vec!["a".into(), "".into()] };
            (Tensor::strings(&[1, 2], vec!["a".into(), "".into()]), vec![Elements::Strings(strings)])
        };
        let bytes = expected.to_bytes().map(|values| Elements::Bytes(RepeatedBytes { values }));
        for elements in stored_as.into_iter().chain(bytes) {
            let read = constant_read(stored(ty.clone(), elements.clone())).unwrap();
            assert_eq!(read, Constant::tensor(expected.clone()), "{dtype} from {elements:?}");
        }
    }
    // Beyond the signed half, the field holds the bits.
    let bits = stored(tensor_of(D::Uint32, &[1]), Elements::Ints(RepeatedInts { values: vec![-1] }));
    let read = constant_read(bits).unwrap();
    assert_eq!(read.as_tensor().unwrap().ints(), Some(&[i64::from(u32::MAX)][..]));
}

#[test]
fn models_that_are_no_programs_are_refused_by_name() {
    let of = |ty| core::Model { specification_version: 4, r#type: ty, ..Default::default() };
    assert_eq!(
        refused(&of(Some(model::Type::NeuralNetworkClassifier(Default::default())))),
        "the model is a neural network, expected an ML program; convert it again with `convert_to=\"mlprogram\"`"
    );
    assert!(refused(&of(Some(model::Type::Pipeline(Default::default())))).contains("is a pipeline,"));
    assert!(
        refused(&of(Some(model::Type::TreeEnsembleRegressor(Default::default())))).contains("is a tree ensemble,")
    );
    assert!(refused(&of(None)).contains("is a model of no known kind,"));
    assert!(read(b"program(1.3)").unwrap_err().to_string().starts_with("this is no Core ML model: "));
}

#[test]
fn mistakes_are_named_with_their_place() {
    use pb::DataType::*;
    let two = tensor_of(Int32, &[2]);
    let ints = |values: &[i32]| Elements::Ints(RepeatedInts { values: values.to_vec() });
    let in_constant = |what: &str| format!("function `main`: op `const` (`c`): attribute `val`: {what}");
    for (v, what) in [
        (stored(two.clone(), ints(&[1])), "a value of type int32 [2]: it has 1 elements"),
        (stored(tensor_of(Int8, &[1]), ints(&[128])), "a value of type int8 [1]: 128 is out of its range"),
        (
            stored(tensor_of(Float32, &[1]), ints(&[1])),
            "a value of type fp32 [1]: its elements are stored as integers",
        ),
        (
            stored(tensor_of(Float16, &[2]), Elements::Bytes(RepeatedBytes { values: vec![0; 5] })),
            "a value of type fp16 [2]: it has 5 bytes, expected 4",
        ),
        (
            stored(tensor_of(Float16, &[-1]), ints(&[1])),
            "elements for the type fp16 [?], whose size is not known or beyond memory",
        ),
        (
            stored(tensor_of(Int32, &[i64::MAX, i64::MAX]), ints(&[])),
            &format!("elements for the type int32 [{0}, {0}], whose size is not known or beyond memory", i64::MAX),
        ),
        (
            stored(tensor_of(Int32, &[1 << 40, 0]), ints(&[])),
            "a value of type int32 [1099511627776, 0] has more than 65536 empty rows",
        ),
        (stored(tensor_of(Int32, &[1; 65]), ints(&[1])), "a tensor type of rank 65, expected 64 at most"),
        (stored(tensor_of(UnusedType, &[]), ints(&[1])), "unknown element type 0"),
        (stored(tensor_of(Int32, &[-2]), ints(&[1])), "a dimension that stands for any number of them"),
        (
            immediate(list_of(two.clone(), 2), Immediate::List(pb::ListValue { values: vec![] })),
            "0 elements for a value of type list<int32 [2], 2>",
        ),
        (
            immediate(list_of(two.clone(), 1), Immediate::List(pb::ListValue { values: vec![string("a")] })),
            "an element of type string [], expected int32 [2]",
        ),
        (stored(list_of(two.clone(), 1), ints(&[1])), "a value of another kind than its type list<int32 [2], 1>"),
    ] {
        // The declared type of the output is read before the value; here it is always right.
        let mut model = with_constant(v);
        let Some(model::Type::MlProgram(program)) = &mut model.r#type else { panic!() };
        let main = program.functions.get_mut("main").unwrap();
        main.block_specializations.get_mut("CoreML8").unwrap().operations[0].outputs[0].r#type = Some(two.clone());
        assert_eq!(refused(&model), in_constant(what));
    }

    let main = |f: pb::Function| refused(&model_of(vec![("main", f)]));
    let mut newer = function(vec![], vec![], &[]);
    newer.block_specializations = map(vec![("CoreML99", pb::Block::default())]);
    assert_eq!(
        main(newer.clone()),
        "function `main`: it has no block for its op set `CoreML8`; there: `CoreML99`"
    );
    newer.opset = "CoreML99".into();
    assert_eq!(main(newer), "function `main`: unknown op set `CoreML99`, expected CoreML5 to CoreML8");
    let blank = function(vec![named("a b", two.clone())], vec![], &[]);
    assert!(main(blank).contains("the name \"a b\" is no identifier"));
    let unbound = function(vec![], vec![op("relu", vec![("x", names(&[]))], vec![named("y", two)])], &["y"]);
    assert_eq!(main(unbound), "function `main`: op `relu` (`y`): argument `x`: it is bound to nothing");
}

#[test]
fn a_program_without_functions_is_refused() {
    // Found by fuzzing: there is no text for such a program.
    let bytes = [178, 31, 10, 129, 85, 23, 246, 248, 10, 0, 0, 0, 0];
    for e in [read(&bytes).unwrap_err(), read_model(&model_of(Vec::new())).unwrap_err()] {
        assert!(e.is_package() && e.to_string().contains("no function"), "{e}");
    }
}

#[test]
fn deep_nesting_is_an_error() {
    let mut ty = tensor_of(pb::DataType::Int32, &[]);
    for _ in 0..1000 {
        ty = list_of(ty, 1);
    }
    assert!(
        refused(&model_of(vec![("main", function(vec![named("x", ty)], vec![], &["x"]))])).contains("recursion")
    );

    let mut inner = op("relu", vec![], vec![]);
    for _ in 0..1000 {
        let block = pb::Block { operations: vec![inner], ..Default::default() };
        inner = pb::Operation { blocks: vec![block], ..op("cond", vec![], vec![]) };
    }
    assert!(refused(&model_of(vec![("main", function(vec![], vec![inner], &[]))])).contains("recursion"));
}

/// Cut short or changed in any byte, a model is read or refused; what is read can be printed and read again.
#[test]
fn damaged_models_do_no_harm() {
    use pb::DataType::*;
    let weights = Elements::Bytes(RepeatedBytes { values: vec![1, 2, 3, 4] });
    let main = function(
        vec![named("s", state_of(tensor_of(Float16, &[2]))), named("l", list_of(tensor_of(Int32, &[2]), 3))],
        vec![
            constant_op("w", stored(tensor_of(Float16, &[2]), weights)),
            op("concat", vec![("values", names(&["w", "w"])), ("axis", value(bools(vec![true])))], vec![]),
        ],
        &["w"],
    );
    let bytes = model_of(vec![("main", main)]).encode_to_vec();
    assert!(read(&bytes).is_ok());
    let mut n_read = 0;
    let mut try_read = |bytes: &[u8]| {
        if let Ok(program) = read(bytes) {
            n_read += 1;
            let text = program.to_string();
            let again = crate::text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(again, program, "{text}");
        }
    };
    for n in 0..bytes.len() {
        try_read(&bytes[..n]);
        for change in [0x00, 0x01, 0x07, 0x08, 0x10, 0x7f, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[n] ^= change;
            try_read(&damaged);
        }
    }
    assert!(n_read > bytes.len(), "{n_read} of {} were read", 9 * bytes.len());
}
