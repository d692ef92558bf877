//! New names for all values: `i000` for inputs, `o000` for outputs, `v000` for what is between.

use super::for_each_use;
use crate::error::{Error, Result};
use anemone_mil::ir::{Block, Function};
use std::collections::HashMap;

/// Renames everything in a function.
///
/// # Errors
///
/// [`Error::is_refused`] if an output is an input, which the engine does not take.
pub(super) fn rename(f: &mut Function) -> Result<()> {
    let mut names = HashMap::new();
    number(&mut names, 'i', f.params.iter().map(|p| &p.name));
    for output in &f.body.outputs {
        if names.contains_key(&output.name) {
            return Err(Error::refused(format!(
                "output `{}` is an input too, which the engine does not take: return `identity` of it",
                output.name
            )));
        }
    }
    number(&mut names, 'o', f.body.outputs.iter().map(|o| &o.name));
    let mut defined = Vec::new();
    definitions(&f.body, &mut defined);
    let between: Vec<String> = defined.into_iter().filter(|n| !names.contains_key(n)).collect();
    number(&mut names, 'v', between.iter());

    let new = |name: &mut String| {
        if let Some(new) = names.get(name) {
            name.clone_from(new);
        }
    };
    f.params.iter_mut().for_each(|p| new(&mut p.name));
    for_each_use(&mut f.body, &mut { new });
    rename_definitions(&mut f.body, &new);
    Ok(())
}

/// Numbers of one width, so that the order of the bytes is the order of the numbers.
fn number<'a>(names: &mut HashMap<String, String>, letter: char, values: impl Iterator<Item = &'a String>) {
    let values: Vec<&String> = values.collect();
    let width = values.len().saturating_sub(1).to_string().len().max(3);
    for (i, value) in values.into_iter().enumerate() {
        names.insert(value.clone(), format!("{letter}{i:0width$}"));
    }
}

fn definitions(block: &Block, names: &mut Vec<String>) {
    names.extend(block.params.iter().map(|p| p.name.clone()));
    for call in &block.calls {
        names.extend(call.outputs.iter().map(|o| o.name.clone()));
        call.blocks.iter().for_each(|b| definitions(b, names));
    }
}

fn rename_definitions(block: &mut Block, new: &impl Fn(&mut String)) {
    block.params.iter_mut().for_each(|p| new(&mut p.name));
    for call in &mut block.calls {
        call.outputs.iter_mut().for_each(|o| new(&mut o.name));
        call.blocks.iter_mut().for_each(|b| rename_definitions(b, new));
    }
}
