//! The methods that the driver calls, with the types that it expects them to have.

use crate::error::{Error, Result};

/// A class of the engine's framework, without its prefix.
pub(super) const DESCRIPTOR: &str = "*InMemoryModelDescriptor";
/// A class of the engine's framework, without its prefix.
pub(super) const MODEL: &str = "*InMemoryModel";
/// A class of the engine's framework, without its prefix.
pub(super) const SURFACE_OBJECT: &str = "*IOSurfaceObject";
/// A class of the engine's framework, without its prefix.
pub(super) const DEVICE_INFO: &str = "*DeviceInfo";
/// A class of the engine's framework, without its prefix.
pub(super) const REQUEST: &str = "*Request";

/// Whether a method belongs to the class or to its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Class,
    Instance,
}

impl Kind {
    /// As Objective-C declares it.
    pub(super) fn sign(self) -> char {
        match self {
            Kind::Class => '+',
            Kind::Instance => '-',
        }
    }
}

/// A method.
pub(super) struct Selector {
    /// The class; `*` stands for the prefix of the engine's classes.
    pub(super) class: &'static str,
    pub(super) kind: Kind,
    pub(super) selector: &'static str,
    /// The types of result and arguments without offsets and qualifiers, with `B` for `BOOL`.
    pub(super) types: &'static str,
    /// Whether the driver does not work without.
    pub(super) required: bool,
}

const fn required(class: &'static str, kind: Kind, selector: &'static str, types: &'static str) -> Selector {
    Selector { class, kind, selector, types, required: true }
}

const fn optional(class: &'static str, kind: Kind, selector: &'static str, types: &'static str) -> Selector {
    Selector { class, kind, selector, types, required: false }
}

/// Every method that is called. Those of the engine as macOS 27 has them on M2 and M4, by logan-ane and tmc/apple;
/// those of Foundation as its headers declare them.
pub(super) const SELECTORS: &[Selector] = &[
    required("NSString", Kind::Class, "stringWithUTF8String:", "@@:*"),
    required("NSString", Kind::Instance, "UTF8String", "*@:"),
    required("NSData", Kind::Class, "dataWithBytes:length:", "@@:^vQ"),
    required("NSNumber", Kind::Class, "numberWithUnsignedLongLong:", "@@:Q"),
    required("NSNumber", Kind::Instance, "longLongValue", "q@:"),
    required("NSArray", Kind::Class, "arrayWithObjects:count:", "@@:^@Q"),
    required("NSArray", Kind::Instance, "count", "Q@:"),
    required("NSArray", Kind::Instance, "objectAtIndex:", "@@:Q"),
    required("NSDictionary", Kind::Class, "dictionaryWithObjects:forKeys:count:", "@@:^@^@Q"),
    required("NSDictionary", Kind::Instance, "objectForKey:", "@@:@"),
    required("NSError", Kind::Instance, "domain", "@@:"),
    required("NSError", Kind::Instance, "code", "q@:"),
    required("NSError", Kind::Instance, "localizedDescription", "@@:"),
    required("NSException", Kind::Instance, "name", "@@:"),
    required("NSException", Kind::Instance, "reason", "@@:"),
    required("NSObject", Kind::Instance, "isKindOfClass:", "B@:#"),
    required(DESCRIPTOR, Kind::Class, "modelWithMILText:weights:optionsPlist:", "@@:@@@"),
    required(MODEL, Kind::Class, "inMemoryModelWithDescriptor:", "@@:@"),
    required(MODEL, Kind::Instance, "hexStringIdentifier", "@@:"),
    required(MODEL, Kind::Instance, "compileWithQoS:options:error:", "B@:I@^@"),
    required(MODEL, Kind::Instance, "loadWithQoS:options:error:", "B@:I@^@"),
    required(MODEL, Kind::Instance, "evaluateWithQoS:options:request:error:", "B@:I@@^@"),
    required(MODEL, Kind::Instance, "unloadWithQoS:error:", "B@:I^@"),
    optional(MODEL, Kind::Instance, "modelAttributes", "@@:"),
    optional(DEVICE_INFO, Kind::Class, "hasANE", "B@:"),
    optional(DEVICE_INFO, Kind::Class, "isVirtualMachine", "B@:"),
    required(SURFACE_OBJECT, Kind::Class, "objectWithIOSurface:", "@@:^{__IOSurface=}"),
    required(
        REQUEST,
        Kind::Class,
        "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:",
        "@@:@@@@@@@",
    ),
];

/// The name of a class of the table.
pub(super) fn class_name(class: &str, prefix: &str) -> String {
    match class.strip_prefix('*') {
        Some(name) => format!("{prefix}{name}"),
        None => class.into(),
    }
}

/// Whether a method has the type of its row, where `BOOL` is encoded as `bool_code`: `B` on arm64, `c` on x86_64.
///
/// # Errors
///
/// That names class, method, both types.
pub(super) fn compare(row: &Selector, class: &str, found: &str, bool_code: &str) -> Result<()> {
    let expected = row.types.replace('B', bool_code);
    let plain = plain(found);
    match plain == expected {
        true => Ok(()),
        false => Err(Error::unavailable(format!(
            "the method `{}{}` of `{class}` has type `{plain}`, expected `{expected}`: this version of the system \
             is not one that anemone knows",
            row.kind.sign(),
            row.selector
        ))),
    }
}

/// A type without offsets and qualifiers, and with 64-bit numbers as `q` and `Q` whatever C calls them.
fn plain(types: &str) -> String {
    let mut depth = 0;
    let mut plain = String::new();
    for c in types.chars() {
        match c {
            '{' | '(' => depth += 1,
            '}' | ')' => depth -= 1,
            _ => {}
        }
        match c {
            _ if depth > 0 => plain.push(c),
            '0'..='9' | 'r' | 'n' | 'N' | 'o' | 'O' | 'R' | 'V' => {}
            'l' => plain.push('q'),
            'L' => plain.push('Q'),
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_compared_without_offsets_and_with_the_bool_of_the_machine() {
        let row = SELECTORS.iter().find(|r| r.selector.starts_with("evaluate")).unwrap();
        assert!(compare(row, "M", "B44@0:8I16@20@28^@36", "B").is_ok());
        assert!(compare(row, "M", "c44@0:8I16@20@28^@36", "c").is_ok());
        let e = compare(row, "_ANEInMemoryModel", "c44@0:8I16@20@28^@36", "B").unwrap_err();
        assert!(e.is_unavailable());
        for part in
            ["`-evaluateWithQoS:options:request:error:`", "`_ANEInMemoryModel`", "`c@:I@@^@`", "`B@:I@@^@`"]
        {
            assert!(e.to_string().contains(part), "{e}");
        }
    }

    #[test]
    fn structs_keep_their_names() {
        assert_eq!(plain("@24@0:8^{__IOSurface=}16"), "@@:^{__IOSurface=}");
        assert_eq!(plain("@32@0:8r^v16L24"), "@@:^vQ");
    }
}
