//! Core ML's protobuf: the `model.mlmodel` of a package, read into a [`Program`].
//!
//! What an `.mlpackage` holds is the same program that Apple's compiler writes as text into a `.mlmodelc`
//! (`Model.proto` and `MIL.proto` of apple/coremltools, `mlmodel/format`). [`read`] takes the bytes; the weights
//! files that the program names lie beside them. Models that are no programs (neural networks, trees, pipelines)
//! are refused by name.
//!
//! The file's own order is kept where it has one: of calls, outputs, and the inputs of functions. Arguments and
//! attributes have none there (they are maps) and come in the order of their names, as coremlc writes them.
//! coremlc also sorts the inputs of functions by name and adds its own version to `buildInfo`;
//! [`Program::normalize`] does the former.

mod value;

use crate::error::{Error, Result};
use crate::ir::*;
use coreml_proto::proto::{Model, mil_spec as pb, model};
use prost::Message;
use std::collections::HashMap;
use value::{check_name, constant, ty};

/// The specification version from which coremlc writes `program(1.3)`: iOS 18.
const SPECIFICATION_1_3: i32 = 9;

/// What goes wrong inside, from the place of the mistake outwards.
type Read<T> = std::result::Result<T, String>;

/// Puts the place before a message.
trait In<T> {
    fn of(self, place: impl FnOnce() -> String) -> Read<T>;
}

impl<T> In<T> for Read<T> {
    fn of(self, place: impl FnOnce() -> String) -> Read<T> {
        self.map_err(|what| format!("{}: {what}", place()))
    }
}

/// The program in the bytes of a `model.mlmodel`.
///
/// Reads in time and memory in proportion to `bytes`, which may come from anywhere.
///
/// # Errors
///
/// If the bytes are no Core ML model, or one that is no program, or its program is against the format
/// ([`Error::is_package`]).
pub fn read(bytes: &[u8]) -> Result<Program> {
    // The decoder refuses messages nested deeper than 100, so nothing below recurses further than that.
    let model =
        Model::decode(bytes).map_err(|e| Error::package(format!("this is no Core ML model: {}", reason(&e))))?;
    let program = match &model.r#type {
        Some(model::Type::MlProgram(program)) => program,
        other => {
            let kind = other.as_ref().map_or("a model of no known kind", kind);
            return Err(Error::package(format!(
                "the model is {kind}, expected an ML program; convert it again with `convert_to=\"mlprogram\"`"
            )));
        }
    };
    let version = match model.specification_version {
        SPECIFICATION_1_3.. => Version::V1_3,
        _ => Version::V1_0,
    };
    let functions = functions(program).map_err(Error::package)?;
    if functions.is_empty() {
        return Err(Error::package("the program has no function"));
    }
    Ok(Program { version, attributes: attributes(&program.attributes).map_err(Error::package)?, functions })
}

/// What the decoder says, in the manner of this crate's messages.
fn reason(e: &prost::DecodeError) -> String {
    let text = e.to_string();
    text.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&text).to_string()
}

/// What a model that is no program is.
fn kind(ty: &model::Type) -> &'static str {
    use model::Type::*;
    match ty {
        MlProgram(_) => "an ML program",
        PipelineClassifier(_) | PipelineRegressor(_) | Pipeline(_) => "a pipeline",
        NeuralNetwork(_) | NeuralNetworkClassifier(_) | NeuralNetworkRegressor(_) => "a neural network",
        TreeEnsembleClassifier(_) | TreeEnsembleRegressor(_) => "a tree ensemble",
        SupportVectorClassifier(_) | SupportVectorRegressor(_) => "a support vector machine",
        GlmClassifier(_) | GlmRegressor(_) => "a generalized linear model",
        KNearestNeighborsClassifier(_) => "a nearest neighbors classifier",
        BayesianProbitRegressor(_) => "a Bayesian probit regressor",
        ItemSimilarityRecommender(_) => "an item similarity recommender",
        CustomModel(_) => "a custom model",
        LinkedModel(_) => "a linked model",
        ClassConfidenceThresholding(_) => "a class confidence thresholding",
        OneHotEncoder(_) => "a one-hot encoder",
        Imputer(_) => "an imputer",
        FeatureVectorizer(_) => "a feature vectorizer",
        DictVectorizer(_) => "a dictionary vectorizer",
        Scaler(_) => "a scaler",
        CategoricalMapping(_) => "a categorical mapping",
        Normalizer(_) => "a normalizer",
        ArrayFeatureExtractor(_) => "an array feature extractor",
        NonMaximumSuppression(_) => "a non-maximum suppression",
        Identity(_) => "an identity",
        TextClassifier(_) => "a text classifier",
        WordTagger(_) => "a word tagger",
        VisionFeaturePrint(_) => "a vision feature print",
        SoundAnalysisPreprocessing(_) => "a sound analysis preprocessing",
        Gazetteer(_) => "a gazetteer",
        WordEmbedding(_) => "a word embedding",
        AudioFeaturePrint(_) => "an audio feature print",
        SerializedModel(_) => "a serialized model",
    }
}

/// The entries of a map, which has no order of its own, by name.
fn sorted<V>(map: &HashMap<String, V>) -> Vec<(&String, &V)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(name, _)| *name);
    entries
}

/// The functions by name, `main` first.
fn functions(program: &pb::Program) -> Read<Vec<Function>> {
    let mut functions = sorted(&program.functions);
    functions.sort_by_key(|(name, _)| *name != "main");
    functions.into_iter().map(|(name, f)| function(name, f).of(|| format!("function `{name}`"))).collect()
}

fn function(name: &str, f: &pb::Function) -> Read<Function> {
    check_name(name)?;
    let block = f.block_specializations.get(&f.opset).ok_or_else(|| {
        let there: Vec<_> = sorted(&f.block_specializations).iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("it has no block for its op set `{}`; there: {}", f.opset, there.join(", "))
    })?;
    let body = self::block(block)?;
    if !body.params.is_empty() {
        return Err("its block has inputs of its own, which only nested blocks have".into());
    }
    Ok(Function {
        name: name.to_string(),
        opset: opset(&f.opset)?,
        params: params(&f.inputs)?,
        attributes: attributes(&f.attributes)?,
        body,
        span: Span::NONE,
    })
}

/// `CoreML5` to `CoreML8`.
fn opset(name: &str) -> Read<Opset> {
    Ok(match name {
        "CoreML5" => Opset::Ios15,
        "CoreML6" => Opset::Ios16,
        "CoreML7" => Opset::Ios17,
        "CoreML8" => Opset::Ios18,
        _ => return Err(format!("unknown op set `{name}`, expected CoreML5 to CoreML8")),
    })
}

fn params(types: &[pb::NamedValueType]) -> Read<Vec<Param>> {
    let param = |p: &pb::NamedValueType| {
        check_name(&p.name)?;
        let declared = p.r#type.as_ref().ok_or("it has no type".to_string()).and_then(ty);
        Ok(Param { name: p.name.clone(), ty: declared.of(|| format!("`{}`", p.name))?, span: Span::NONE })
    };
    types.iter().map(param).collect()
}

fn attributes(map: &HashMap<String, pb::Value>) -> Read<Attributes> {
    let attribute = |(name, value): (&String, &pb::Value)| {
        check_name(name)?;
        Ok((name.clone(), constant(value).of(|| format!("attribute `{name}`"))?))
    };
    sorted(map).into_iter().map(attribute).collect()
}

fn block(b: &pb::Block) -> Read<Block> {
    if let Some((name, _)) = sorted(&b.attributes).first() {
        return Err(format!("a block has the attribute `{name}`, but blocks have none in the language"));
    }
    let output = |name: &String| {
        check_name(name)?;
        Ok(Reference { name: name.clone(), span: Span::NONE })
    };
    Ok(Block {
        params: params(&b.inputs)?,
        calls: b.operations.iter().map(call).collect::<Read<_>>()?,
        outputs: b.outputs.iter().map(output).collect::<Read<_>>()?,
    })
}

fn call(op: &pb::Operation) -> Read<Call> {
    let place = || match op.outputs.first() {
        Some(output) => format!("op `{}` (`{}`)", op.r#type, output.name),
        None => format!("op `{}`", op.r#type),
    };
    check_name(&op.r#type)?;
    let arg = |(name, argument): (&String, &pb::Argument)| {
        check_name(name)?;
        let value = arg_value(argument).of(|| format!("argument `{name}`"))?;
        Ok(Arg { name: name.clone(), value, span: Span::NONE })
    };
    let parts = || {
        Ok(Call {
            outputs: params(&op.outputs)?,
            op: op.r#type.clone(),
            opset: None,
            args: sorted(&op.inputs).into_iter().map(arg).collect::<Read<_>>()?,
            attributes: attributes(&op.attributes)?,
            blocks: op.blocks.iter().map(block).collect::<Read<_>>()?,
            span: Span::NONE,
        })
    };
    parts().of(place)
}

/// One binding is the value itself, as coremlc writes it; several are a tuple.
fn arg_value(argument: &pb::Argument) -> Read<ArgValue> {
    use pb::argument::binding::Binding;
    let value = |b: &pb::argument::Binding| match &b.binding {
        Some(Binding::Name(name)) => check_name(name).map(|()| ArgValue::Name(name.clone())),
        Some(Binding::Value(value)) => constant(value).map(ArgValue::Constant),
        None => Err("it is bound to nothing".into()),
    };
    match &argument.arguments[..] {
        [] => Err("it is bound to nothing".into()),
        [one] => value(one),
        several => several.iter().map(value).collect::<Read<_>>().map(ArgValue::Tuple),
    }
}

#[cfg(test)]
mod tests;
