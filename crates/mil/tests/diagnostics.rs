//! What the parser says to common mistakes, as a person sees it. `UPDATE_EXPECT=1 cargo test` writes the texts anew.

use anemone_mil::line_column;
use anemone_mil::text::parse;
use expect_test::{Expect, expect};

#[track_caller]
fn check(source: &str, expected: Expect) {
    let error = parse(source).unwrap_err();
    assert!(error.is_parse());
    expected.assert_eq(&error.render("model.mil", source));
}

/// A program with that body, on lines of its own.
#[track_caller]
fn check_body(body: &str, expected: Expect) {
    check(
        &format!("program(1.3)\n{{\nfunc main<ios18>(tensor<fp16, [1, 4]> x) {{\n{body}\n}} -> (y);\n}}"),
        expected,
    );
}

#[test]
fn several_mistakes_are_found_in_one_run() {
    check(
        r#"program(1.2)
[buildInfo = dict<string, string>({{"k" "v"}})]
{
    func main<ios99>(tensor<fp16, [1]> x) {
        tensor<fp16, [1] y = relu(x = x);
        tensor<fp16, [1]> z = add(x = y, y = 1.0)
        tensor<float16, [2]> w = const()[val = tensor<fp16, [2]>([1, 2])];
        tensor<int8, [2]> q = const()[val = tensor<int8, [2]>([1, 200])];
        tensor<int8, [2]> q = const()[val = tensor<int8, [2]>([1])]
        tensor<fp16, [1]> ok = relu(x = x);
        tensor<fp16, [1]> v = cond(p = x)[name = string('c')] () {
            tensor<fp16, [1]> a = relu(x = );
            tensor<fp16, [1]> b = relu(x = x);
        } -> (b) () {
        } -> (c;
        relu(x = x));
    } -> (y);
    func second<ios18>() { } > ();
}"#,
        expect![[]],
    );
}

#[test]
fn texts_that_are_no_mil() {
    check("", expect![[]]);
    check("{\"a\": 1}", expect![[]]);
    check("main[CoreML7](%x: (2, 4, fp16)(Tensor)) {\n  block0() {", expect![[]]);
    check("program(1.0)\n{\n    func main<ios16>(", expect![[]]);
    check("program(1.0)\n{\n    func main<ios16>() {\n  f();\n", expect![[]]);
    check("program(1.0)\n{\n}", expect![[]]);
    check("program(1.0) { func f<ios15>() { } -> (); } }", expect![[]]);
}

#[test]
fn literals_that_do_not_fit_their_type() {
    check_body("f(a = tensor<fp16, [2, 2]>([1, 2, 3, 4]));", expect![[]]);
    check_body("f(a = tensor<fp16, [2, 2]>([[1, 2], [3]]));", expect![[]]);
    check_body("f(a = tensor<fp16, [2]>([1, 2, 3]));", expect![[]]);
    check_body("f(a = tensor<fp16, [1]>([[1]]));", expect![[]]);
    check_body("f(a = int32([1]));", expect![[]]);
    check_body("f(a = int32(1.5), b = 2);", expect![[]]);
    check_body("f(a = bool(1));", expect![[]]);
    check_body("f(a = string(valid));", expect![[]]);
    check_body("f(a = fp32(0x1.8));", expect![[]]);
    check_body("f(a = list<int32, 2>([1]));", expect![[]]);
    check_body("f(a = tuple<int32, int32>((1)));", expect![[]]);
    check_body("f(a = state<fp16>(1));", expect![[]]);
    check_body("f(a = fp16(BLOBFILE(path = string(\"w\"), offset = int32(64))));", expect![[]]);
}

#[test]
fn characters_and_strings() {
    check_body("# a comment", expect![[]]);
    check_body("f(a = string(\"one));\ng();", expect![[]]);
    check_body("f(a = string(\"é\\x41\"));", expect![[]]);
    check_body("f(a = string(\"a\0b\"));\n\0", expect![[]]);
    check_body("größe = f();", expect![[]]);
}

#[test]
fn statements() {
    check_body("[tensor<fp16, [1]> a, tensor<fp16, [1]> b] = split(x = x);", expect![[]]);
    check_body("tensr<fp16, [1]> a = relu(x = x);", expect![[]]);
    check_body("a = relu(x = x);", expect![[]]);
    check_body("relu<ios19>(x = x);", expect![[]]);
    check_body("f(a = ());", expect![[]]);
    check_body("f(x = x, );", expect![[]]);
    check_body("f(x);", expect![[]]);
}

#[test]
fn lines_and_columns_count_from_one_and_in_characters() {
    let source = "ab\né\tc\n";
    let positions = [(0, (1, 1)), (2, (1, 3)), (3, (2, 1)), (5, (2, 2)), (6, (2, 3)), (8, (3, 1)), (99, (3, 1))];
    for (offset, expected) in positions {
        assert_eq!(line_column(source, offset), expected, "{offset}");
    }
    // The middle of a character is where it begins.
    assert_eq!(line_column(source, 4), (2, 1));
}
