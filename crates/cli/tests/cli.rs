//! The command as a user meets it: exit codes, what is printed where, and what happens to files.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const RELU: &str = "program(1.3) { func main<ios18>(tensor<fp16, [1, 64, 1, 512]> x) {
    tensor<fp16, [1, 64, 1, 512]> y = relu(x = x)[name = string(\"y\")]; } -> (y); }\n";

const WRONG: &str = "program(1.3) { func main<ios18>(tensor<fp16, [1, 4]> x) {
    tensor<fp16, [1, 5]> y = relu(x = x)[name = string(\"y\")]; } -> (y); }\n";

fn anemone(folder: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_anemone"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may be gone by now.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn wrong_usage_is_2() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["nonsense"][..], &["check"], &["check", "--chip", "m9", "x.mil"], &[]] {
        assert_eq!(code(&anemone(folder.path(), args, "")), 2, "{args:?}");
    }
    let help = anemone(folder.path(), &["--help"], "");
    assert_eq!(code(&help), 0);
    assert!(stdout(&help).contains("Exit codes:"));
}

#[test]
fn check_prints_findings_and_a_summary() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.mil"), RELU).unwrap();
    fs::write(folder.path().join("b.mil"), WRONG).unwrap();
    let good = anemone(folder.path(), &["check", "a.mil"], "");
    assert_eq!(code(&good), 0);
    assert_eq!(stdout(&good), "1 file checked by the rules of the language: 0 errors, 0 warnings\n");
    let bad = anemone(folder.path(), &["check", "a.mil", "none.mil", "b.mil"], "");
    assert_eq!(code(&bad), 1);
    assert!(stdout(&bad).contains(" --> b.mil:2:"), "{}", stdout(&bad));
    assert!(stdout(&bad).contains("error[unreadable]: none.mil: "), "{}", stdout(&bad));
    assert!(stdout(&bad).ends_with("3 files checked by the rules of the language: 2 errors, 0 warnings\n"));
    assert!(!stdout(&bad).contains('\u{1b}'));
}

#[test]
fn check_for_a_chip_names_the_rule_its_grade_and_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let fp32 = RELU.replace("fp16", "fp32");
    let output = anemone(folder.path(), &["check", "--chip", "m1", "-"], &fp32);
    assert_eq!(code(&output), 1);
    let text = stdout(&output);
    assert!(text.contains("error[fp32-io]: input `x` is fp32 [1, 64, 1, 512]"), "{text}");
    assert!(text.contains("rule `fp32-io`, measured, in-memory text: HiQS Orion fork"), "{text}");
    assert_eq!(text.matches("HiQS Orion fork").count(), 1, "said once for the input and the output: {text}");
    assert!(
        text.ends_with("1 file checked by the rules of the language and of m1: 2 errors, 2 warnings\n"),
        "{text}"
    );
    assert_eq!(code(&anemone(folder.path(), &["check", "-"], &fp32)), 0, "the language has no such rule");
}

#[test]
fn check_as_json_is_an_object_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let output = anemone(folder.path(), &["check", "--json", "--chip", "m1", "-"], &RELU.replace("fp16", "fp32"));
    assert_eq!(code(&output), 1);
    let lines: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let finding = lines.iter().find(|f| f["code"] == "fp32-io").unwrap();
    assert_eq!(finding["severity"], "error");
    assert_eq!(
        (&finding["line"], &finding["column"], &finding["end_column"]),
        (&1.into(), &63.into(), &64.into())
    );
    assert_eq!(finding["rule"]["grade"], "measured");
    assert_eq!(finding["rule"]["chips"], serde_json::json!(["m1", "m2"]));
    let syntax = anemone(folder.path(), &["check", "--json", "-"], "program(1.3) {");
    assert_eq!(code(&syntax), 1);
    assert_eq!(stdout(&syntax).lines().count(), 1);
}

#[test]
fn check_looks_into_compiled_models() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("a.mlmodelc")).unwrap();
    fs::write(folder.path().join("a.mlmodelc/model.mil"), WRONG).unwrap();
    let output = anemone(folder.path(), &["check", "a.mlmodelc"], "");
    assert_eq!(code(&output), 1);
    assert!(stdout(&output).contains("model.mil:2:"), "{}", stdout(&output));
}

#[test]
fn check_holds_constants_against_their_weights_file() {
    let folder = tempfile::tempdir().unwrap();
    let blob = "tensor<fp16, [4]> w = const()[name = string(\"w\"), val = tensor<fp16, [4]>(BLOBFILE(path = \
                string(\"@model_path/w.bin\"), offset = uint64(64)))];";
    let program = format!(
        "program(1.3) {{ func main<ios18>(tensor<fp16, [4]> x) {{ {blob} \
         tensor<fp16, [4]> y = add(x = x, y = w)[name = string(\"y\")]; }} -> (y); }}"
    );
    fs::write(folder.path().join("a.mil"), &program).unwrap();
    let missing = anemone(folder.path(), &["check", "a.mil"], "");
    assert_eq!(code(&missing), 0);
    assert!(
        stdout(&missing).contains("warning[weights]: a.mil: the weights were not checked"),
        "{}",
        stdout(&missing)
    );
    for (n_elements, expected) in [(4, 0), (3, 1)] {
        let mut writer = anemone_mil::weights::WeightsWriter::new();
        writer.add_f32_as(anemone_mil::ir::DType::Fp16, &vec![1.0; n_elements]).unwrap();
        fs::write(folder.path().join("w.bin"), writer.finish()).unwrap();
        let output = anemone(folder.path(), &["check", "a.mil"], "");
        assert_eq!(code(&output), expected, "{}", stdout(&output));
        assert_eq!(stdout(&output).contains("error[weights]: constant `w`"), expected == 1);
    }
    let data = program.replace("uint64(64)", "uint64(128)");
    fs::write(folder.path().join("a.mil"), data).unwrap();
    let output = anemone(folder.path(), &["check", "a.mil"], "");
    assert!(stdout(&output).contains("this is the data of the record at 64"), "{}", stdout(&output));
}

#[test]
fn fmt_rewrites_in_place_or_says_what_it_would() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.mil");
    fs::write(&file, RELU).unwrap();
    let check = anemone(folder.path(), &["fmt", "--check", "a.mil"], "");
    assert_eq!((code(&check), stdout(&check)), (1, "a.mil\n"));
    assert_eq!(fs::read_to_string(&file).unwrap(), RELU);
    assert_eq!(code(&anemone(folder.path(), &["fmt", "a.mil"], "")), 0);
    let formatted = fs::read_to_string(&file).unwrap();
    assert!(formatted.starts_with("program(1.3)\n{\n    func main<ios18>("), "{formatted}");
    assert_eq!(code(&anemone(folder.path(), &["fmt", "--check", "a.mil"], "")), 0);
    let old = anemone(folder.path(), &["fmt", "--dialect", "1.0", "-"], RELU);
    assert!(stdout(&old).starts_with("program(1.0)\n") && stdout(&old).contains("tensor<string, []>(\"y\")"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn fmt_loses_no_comments_unasked_and_touches_nothing_that_is_no_mil() {
    let folder = tempfile::tempdir().unwrap();
    let commented = format!("// mine\n{RELU}");
    fs::write(folder.path().join("a.mil"), &commented).unwrap();
    fs::write(folder.path().join("b.mil"), "nonsense").unwrap();
    let output = anemone(folder.path(), &["fmt", "b.mil", "a.mil"], "");
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("has comments"), "{}", stderr(&output));
    assert!(
        stderr(&output).ends_with("error: 2 of 2 files were left as they are: mend what is named above\n"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::read_to_string(folder.path().join("a.mil")).unwrap(), commented);
    assert_eq!(fs::read_to_string(folder.path().join("b.mil")).unwrap(), "nonsense");
    assert_eq!(code(&anemone(folder.path(), &["fmt", "--drop-comments", "a.mil"], "")), 0);
    assert!(!fs::read_to_string(folder.path().join("a.mil")).unwrap().contains("mine"));
}

#[test]
fn devices_are_listed_for_people_and_for_tools() {
    let folder = tempfile::tempdir().unwrap();
    let output = anemone(folder.path(), &["devices"], "");
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("soft  software engine: usable"), "{}", stdout(&output));
    let output = anemone(folder.path(), &["devices", "--json"], "");
    let machine: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(machine["devices"][1]["name"], "soft");
    assert_eq!(machine["devices"][1]["chips"].as_array().unwrap().len(), 5);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let call = "tensor<fp16, [1, 5]> y = relu(x = x)[name = string(\"y\")];\n";
    let many =
        WRONG.replace("    tensor<fp16, [1, 5]> y = relu(x = x)[name = string(\"y\")];", &call.repeat(2000));
    fs::write(folder.path().join("a.mil"), many).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_anemone"))
        .args(["check", "--json", "a.mil"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, ""));
}
