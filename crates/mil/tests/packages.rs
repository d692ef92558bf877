//! Packages of coremltools hold the programs that their compiled texts say.
//!
//! The models are not part of the project. `ANEMONE_SHARED` names the folder that has them; without it this test
//! says so and checks nothing.
#![allow(clippy::print_stderr)]

use anemone_mil::ir::{Literal, Program};
use anemone_mil::{package, text};
use std::path::Path;

/// Undoes what coremlc adds to `buildInfo`, its own version, and puts the entries into its order. Without others
/// the attribute itself was coremlc's.
fn normalize_build_info(program: &mut Program) {
    for (_, constant) in program.attributes.iter_mut().filter(|(name, _)| name == "buildInfo") {
        let Literal::Dict(entries) = &mut constant.value else { panic!("{constant:?}") };
        let word = |literal: &Literal| match literal {
            Literal::Tensor(t) => t.strs().unwrap()[0].clone(),
            other => panic!("{other:?}"),
        };
        entries.retain(|(key, _)| !word(key).starts_with("coremlc-"));
        entries.sort_by_key(|(key, _)| word(key));
    }
    program.attributes.retain(|(_, constant)| constant.value != Literal::Dict(Vec::new()));
}

#[test]
fn a_package_is_the_program_of_its_text() {
    let Some(root) = std::env::var_os("ANEMONE_SHARED") else {
        eprintln!("skipped: ANEMONE_SHARED does not name a folder with `conformance/models`");
        return;
    };
    let mut n = 0;
    for entry in std::fs::read_dir(Path::new(&root).join("conformance/models")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap();
        let package = folder.join(format!("{name}.mlpackage/Data/com.apple.CoreML/model.mlmodel"));
        let mut from_package = package::read(&std::fs::read(package).unwrap()).unwrap();
        let mut from_text = text::parse(&std::fs::read_to_string(folder.join("model.mil")).unwrap()).unwrap();
        from_package.normalize();
        normalize_build_info(&mut from_package);
        normalize_build_info(&mut from_text);
        assert_eq!(text::print(&from_package), text::print(&from_text), "{name}");
        assert!(from_package == from_text, "{name}: the same text, but another program");
        n += 1;
    }
    assert!(n >= 12, "{n} models");
}
