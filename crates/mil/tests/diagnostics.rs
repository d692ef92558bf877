//! What the parser says to common mistakes, as a person sees it. `UPDATE_EXPECT=1 cargo test` writes the texts
//! anew.

use anemone_mil::line_column;
use anemone_mil::text::parse;
use expect_test::{Expect, expect};

/// Checks all that the parser says to the sources, one after the other.
#[track_caller]
fn check(sources: &[&str], expected: Expect) {
    let rendered = sources.iter().map(|source| {
        let error = parse(source).unwrap_err();
        assert!(error.is_parse());
        error.render("model.mil", source) + "\n"
    });
    expected.assert_eq(&rendered.collect::<Vec<_>>().join("\n"));
}

/// Checks programs with these bodies, each on lines of its own.
#[track_caller]
fn check_bodies(bodies: &[&str], expected: Expect) {
    let program =
        |body| format!("program(1.3)\n{{\nfunc main<ios18>(tensor<fp16, [1, 4]> x) {{\n{body}\n}} -> (y);\n}}");
    let sources: Vec<String> = bodies.iter().map(program).collect();
    check(&sources.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn several_mistakes_are_found_in_one_run() {
    let source = r#"program(1.2)
[buildInfo = dict<string, string>({{"k" "v"}})]
{
    func main<ios99>(tensor<fp16, [1]> x) {
        tensor<fp16, [1] y = relu(x = x);
        tensor<fp16, [1]> z = add(x = y, y = 1.0)
        tensor<float16, [2]> w = const()[val = tensor<fp16, [2]>([1, 2])];
        tensor<int8, [2]> q = const()[val = tensor<int8, [2]>([1, 200])];
        tensor<int8, [2]> q = const()[val = tensor<int8, [2]>([1])]
        tensor<fp16, [1]> ok = relu(x = x);
        tensor<fp16, [1]> v = cond(p = x)[name = string("c")] () {
            tensor<fp16, [1]> a = relu(x = );
            tensor<fp16, [1]> b = relu(x = x);
        } -> (b) () {
        } -> (c;
        relu(x = x));
    } -> (y);
    func second<ios18>() { } > ();
}"#;
    check(
        &[source],
        expect![[r#"
            error[version]: unknown version `1.2` of MIL
             --> model.mil:1:9
              |
            1 | program(1.2)
              |         ^^^ expected `1.0` or `1.3`
              |
              = note: 1.0 is written for iOS 15 to 17, 1.3 for iOS 18

            error[syntax]: expected `,` and the value, found `"v"`
             --> model.mil:2:41
              |
            2 | [buildInfo = dict<string, string>({{"k" "v"}})]
              |                                         ^^^ expected `,` and the value

            error[opset]: unknown op set `ios99`
             --> model.mil:4:15
              |
            4 |     func main<ios99>(tensor<fp16, [1]> x) {
              |               ^^^^^ expected `ios15`, `ios16`, `ios17` or `ios18`

            error[syntax]: expected `>`, found `y`
             --> model.mil:5:26
              |
            5 |         tensor<fp16, [1] y = relu(x = x);
              |                          ^ expected `>`

            error[syntax]: expected a value, found `1.0`
             --> model.mil:6:46
              |
            6 |         tensor<fp16, [1]> z = add(x = y, y = 1.0)
              |                                              ^^^ a literal needs its type, as in `int32(1)`

            error[type]: unknown type `float16`
             --> model.mil:7:16
              |
            7 |         tensor<float16, [2]> w = const()[val = tensor<fp16, [2]>([1, 2])];
              |                ^^^^^^^ in MIL this is `fp16`

            error[literal]: `200` is no `int8`
             --> model.mil:8:67
              |
            8 |         tensor<int8, [2]> q = const()[val = tensor<int8, [2]>([1, 200])];
              |                                                                   ^^^ expected an integer from -128 to 127

            error[literal]: expected size 2 in dimension 0 of a tensor of type `int8 [2]`, found 1
             --> model.mil:9:63
              |
            9 |         tensor<int8, [2]> q = const()[val = tensor<int8, [2]>([1])]
              |                                             ----------------- ^^^ expected 2
              |                                             |
              |                                             of this type

            error[syntax]: expected a value, found `)`
              --> model.mil:12:44
               |
            12 |             tensor<fp16, [1]> a = relu(x = );
               |                                            ^ expected a value

            error[syntax]: expected `,` or `)`, found `;`
              --> model.mil:15:16
               |
            15 |         } -> (c;
               |                ^ expected `,` or `)`

            error[syntax]: expected `;`, found `)`
              --> model.mil:16:20
               |
            16 |         relu(x = x));
               |                    ^ expected `;`

            error[syntax]: expected `-> (outputs)`, found `>`
              --> model.mil:18:30
               |
            18 |     func second<ios18>() { } > ();
               |                              ^ expected `-> (outputs)`
        "#]],
    );
}

#[test]
fn texts_that_are_no_mil() {
    let sources = [
        "",
        "{\"a\": 1}",
        "main[CoreML7](%x: (2, 4, fp16)(Tensor)) {\n  block0() {",
        "program(1.0)\n{\n    func main<ios16>(",
        "program(1.0)\n{\n    func main<ios16>() {\n  f();\n",
        "program(1.0)\n{\n}",
        "program(1.0) { func f<ios15>() { } -> (); } }",
    ];
    check(
        &sources,
        expect![[r#"
        error[syntax]: expected `program`, found nothing
         |
         = note: MIL text begins with `program(1.0)` or `program(1.3)`

        error[syntax]: expected `program`, found `{`
         --> model.mil:1:1
          |
        1 | {"a": 1}
          | ^ expected `program`

        error[coremltools-print]: this is what coremltools prints of a program, not MIL text
         --> model.mil:1:1
          |
        1 | main[CoreML7](%x: (2, 4, fp16)(Tensor)) {
          | ^^^^ expected `program`
          |
          = note: it lacks the types of constants, and often their values, so that it cannot be read back
          = note: compile the model (`xcrun coremlcompiler compile model.mlpackage .`) and take `model.mil`

        error[syntax]: expected a type, found the end of the file
         --> model.mil:3:21
          |
        3 |     func main<ios16>(
          |                     ^ expected a type after this

        error[syntax]: block without its closing `}`
         --> model.mil:3:24
          |
        3 |     func main<ios16>() {
          |                        ^ begins here
          |
          = note: a block ends with `} -> (outputs)`

        error[syntax]: expected `func`, found `}`
         --> model.mil:3:1
          |
        3 | }
          | ^ expected `func`

        error[syntax]: expected the end of the file, found `}`
         --> model.mil:1:45
          |
        1 | program(1.0) { func f<ios15>() { } -> (); } }
          |                                             ^ expected the end of the file
    "#]],
    );
}

#[test]
fn literals_that_do_not_fit_their_type() {
    let bodies = [
        "f(a = tensor<fp16, [2, 2]>([1, 2, 3, 4]));",
        "f(a = tensor<fp16, [2, 2]>([[1, 2], [3]]));",
        "f(a = tensor<fp16, [2]>([1, 2, 3]));",
        "f(a = tensor<fp16, [1]>([[1]]));",
        "f(a = int32([1]));",
        "f(a = int32(1.5), b = 2);",
        "f(a = bool(1));",
        "f(a = string(valid));",
        "f(a = fp32(0x1.8));",
        "f(a = list<int32, 2>([1]));",
        "f(a = tuple<int32, int32>((1)));",
        "f(a = tuple<int32>((1, 2)));",
        "f(a = state<fp16>(1));",
        "f(a = fp16(BLOBFILE(path = string(\"w\"), offset = int32(64))));",
        "f(a = list<int32, 2>(BLOBFILE(path = string(\"w\"), offset = uint64(64))));",
    ];
    check_bodies(
        &bodies,
        expect![[r#"
            error[literal]: the literal of a tensor of rank 2 is nested 2 deep, this one 1
             --> model.mil:4:29
              |
            4 | f(a = tensor<fp16, [2, 2]>([1, 2, 3, 4]));
              |       --------------------  ^ expected `[`
              |       |
              |       of this type
              |
              = note: a literal is nested as its type says: `[[1, 2], [3, 4]]` for the shape [2, 2]

            error[literal]: expected size 2 in dimension 1 of a tensor of type `fp16 [2, 2]`, found 1
             --> model.mil:4:37
              |
            4 | f(a = tensor<fp16, [2, 2]>([[1, 2], [3]]));
              |       --------------------          ^^^ expected 2
              |       |
              |       of this type

            error[literal]: expected size 2 in dimension 0 of a tensor of type `fp16 [2]`, found more
             --> model.mil:4:32
              |
            4 | f(a = tensor<fp16, [2]>([1, 2, 3]));
              |       -----------------        ^ expected `]` after 2
              |       |
              |       of this type

            error[literal]: the literal of a tensor of rank 1 is nested 1 deep, this one deeper
             --> model.mil:4:26
              |
            4 | f(a = tensor<fp16, [1]>([[1]]));
              |                          ^ expected an element of type `fp16`

            error[literal]: the literal of a scalar stands without brackets
             --> model.mil:4:13
              |
            4 | f(a = int32([1]));
              |             ^ expected an element of type `int32`

            error[literal]: `1.5` is no `int32`
             --> model.mil:4:13
              |
            4 | f(a = int32(1.5), b = 2);
              |             ^^^ expected an integer from -2147483648 to 2147483647

            error[literal]: `1` is no `bool`
             --> model.mil:4:12
              |
            4 | f(a = bool(1));
              |            ^ expected `true` or `false`

            error[syntax]: expected an element of type `string`, found `valid`
             --> model.mil:4:14
              |
            4 | f(a = string(valid));
              |              ^^^^^ expected an element of type `string`

            error[literal]: `0x1.8` is no `fp32`
             --> model.mil:4:12
              |
            4 | f(a = fp32(0x1.8));
              |            ^^^^^ expected a number such as `0.5`, `0x1p-1`, `-inf` or `nan`

            error[literal]: expected a list of 2, found 1
             --> model.mil:4:22
              |
            4 | f(a = list<int32, 2>([1]));
              |       -------------- ^^^ expected 2
              |       |
              |       of this type

            error[literal]: expected a tuple of 2, found 1
             --> model.mil:4:27
              |
            4 | f(a = tuple<int32, int32>((1)));
              |       ------------------- ^^^ expected 2
              |       |
              |       of this type

            error[literal]: expected a tuple of 1, found more
             --> model.mil:4:24
              |
            4 | f(a = tuple<int32>((1, 2)));
              |       ------------     ^ one too many
              |       |
              |       of this type

            error[literal]: there are no literals of type `state<fp16 []>`
             --> model.mil:4:7
              |
            4 | f(a = state<fp16>(1));
              |       ^^^^^^^^^^^ expected a tensor, list, tuple or dict

            error[type]: `offset` of a BLOBFILE is a literal of type `uint64`, not of `int32 []`
             --> model.mil:4:50
              |
            4 | f(a = fp16(BLOBFILE(path = string("w"), offset = int32(64))));
              |                                                  ^^^^^^^^^ expected a `uint64` literal

            error[literal]: a weights file holds tensors, not `list<int32 [], 2>`
             --> model.mil:4:22
              |
            4 | f(a = list<int32, 2>(BLOBFILE(path = string("w"), offset = uint64(64))));
              |                      ^^^^^^^^ expected a literal
        "#]],
    );
}

#[test]
fn characters_and_strings() {
    let bodies = [
        "# a comment",
        "f(a = string(\"one));\ng();",
        "f(a = string(\"é\\x41\"));",
        "f(a = string(\"a\0b\"));\n\0",
        "f(a = string('valid'));",
        "größe = f();",
    ];
    check_bodies(
        &bodies,
        expect![[r#"
        error[syntax]: expected a type, an op or the `}` that ends the block, found the character '#'
         --> model.mil:4:1
          |
        4 | # a comment
          | ^ no part of MIL outside strings and comments
          |
          = note: a comment begins with `//` and ends with its line

        error[syntax]: string without a closing quote
         --> model.mil:4:14
          |
        4 | f(a = string("one));
          |              ^^^^^^^ begins here
          |
          = note: a string ends on its line; write a quote inside it as `\"` and a line break as `\n`

        error[syntax]: unknown escape `\x`
         --> model.mil:4:16
          |
        4 | f(a = string("é\x41"));
          |                ^^ expected `\"`, `\\`, `\n`, `\r`, `\t` or `\0`

        error[syntax]: a NUL byte in a string
         --> model.mil:4:16
          |
        4 | f(a = string("a␀b"));
          |                ^ write it as `\0`

        error[syntax]: expected a type, an op or the `}` that ends the block, found the character '\0'
         --> model.mil:5:1
          |
        5 | ␀
          | ^ no part of MIL outside strings and comments

        error[syntax]: expected an element of type `string`, found the character '\''
         --> model.mil:4:14
          |
        4 | f(a = string('valid'));
          |              ^ no part of MIL outside strings and comments
          |
          = note: a string stands between double quotes

        error[syntax]: expected a name of letters from a to z, digits, `_` and `@`, found the character 'ö'
         --> model.mil:4:3
          |
        4 | größe = f();
          |   ^ no part of MIL outside strings and comments
    "#]],
    );
}

#[test]
fn statements() {
    let bodies = [
        "[tensor<fp16, [1]> a, tensor<fp16, [1]> b] = split(x = x);",
        "tensr<fp16, [1]> a = relu(x = x);",
        "state<list<fp16, 1>> a = f();",
        "tensor_buffer<fp16, strides=[1]> a = f();",
        "a = relu(x = x);",
        "relu<ios19>(x = x);",
        "f(a = ());",
        "f(x = x, );",
        "f(x);",
        "f()\ng();",
    ];
    check_bodies(
        &bodies,
        expect![[r#"
        error[syntax]: expected a type or an op, found `[`
         --> model.mil:4:1
          |
        4 | [tensor<fp16, [1]> a, tensor<fp16, [1]> b] = split(x = x);
          | ^ outputs stand without brackets: `type a, type b = op(...)`

        error[type]: unknown type `tensr`
         --> model.mil:4:1
          |
        4 | tensr<fp16, [1]> a = relu(x = x);
          | ^^^^^ expected a type
          |
          = note: types are tensor<...>, list<...>, tuple<...>, dict<...>, state<...> and tensor_buffer<...>
          = note: element types are fp16, fp32, fp64, bf16, fp8e4m3fn, fp8e5m2, bool, string, int4, int8, int16, int32, int64, uint1, uint2, uint3, uint4, uint6, uint8, uint16, uint32, uint64

        error[type]: a state of type `list<fp16 [], 1>`
         --> model.mil:4:7
          |
        4 | state<list<fp16, 1>> a = f();
          |       ^^^^^^^^^^^^^ expected a tensor type

        error[type]: expected `shape`, found `strides`
         --> model.mil:4:21
          |
        4 | tensor_buffer<fp16, strides=[1]> a = f();
          |                     ^^^^^^^ a tensor_buffer has shape, strides and interleave_factors, in that order

        error[syntax]: the output `a` has no type
         --> model.mil:4:1
          |
        4 | a = relu(x = x);
          | ^ expected its type before it, as in `tensor<fp16, [1, 64]> a`

        error[opset]: unknown op set `ios19`
         --> model.mil:4:6
          |
        4 | relu<ios19>(x = x);
          |      ^^^^^ expected `ios15`, `ios16`, `ios17` or `ios18`

        error[syntax]: a tuple of no values
         --> model.mil:4:7
          |
        4 | f(a = ());
          |       ^^ expected at least one

        error[syntax]: expected the name of an argument, found `)`
         --> model.mil:4:10
          |
        4 | f(x = x, );
          |          ^ expected the name of an argument

        error[syntax]: expected `=`, found `)`
         --> model.mil:4:4
          |
        4 | f(x);
          |    ^ expected `=`

        error[syntax]: expected `;` at the end of the statement
         --> model.mil:4:3
          |
        4 | f()
          |   ^ expected `;` after this
    "#]],
    );
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

#[test]
fn findings_without_end_are_counted() {
    let calls = "y = relu(x = nowhere); ".replace("y =", "tensor<fp16, [1]> y =").repeat(150);
    let source = format!("program(1.3) {{ func main<ios18>(tensor<fp16, [1]> x) {{ {calls} }} -> (x); }}");
    let error = anemone_mil::validate(parse(&source).unwrap(), &anemone_mil::Limits::none()).unwrap_err();
    let last = error.diagnostics().last().unwrap();
    assert_eq!((error.diagnostics().len(), last.code), (101, "too-many"), "{}", last.message);
}
