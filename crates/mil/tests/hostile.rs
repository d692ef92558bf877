//! No text makes the parser panic, overflow the stack or allocate what was not written.

use anemone_mil::text::{parse, print};

const SAMPLE: &str = r#"program(1.3)
[buildInfo = dict<string, string>({{"coremlc-version", "3505.4.1"}, {"é", "\"\\"}})]
{
    func main<ios18>(state<tensor<fp16, [2, 3]>> acc, tensor<fp32, [?, 4]> x) [Flexible = tuple<string, dict<string, list<tensor<int32, [2]>, ?>>>(("RangeDims", {{"x", [[1, 4], [4, 4]]}}))] {
            tensor<fp16, [2, 2]> w = const()[name = string("w"), val = tensor<fp16, [2, 2]>([[0x1.99cp-4, -0x1p-24], [-inf, nan]])];
            tensor<int8, [4]> q = const()[val = tensor<int8, [4]>(BLOBFILE(path = string("@model_path/w.bin"), offset = uint64(64)))];
            tensor<fp16, [1]> a, int32 b = split<ios17>(axis = int32(-1), values = (w, fp32(0.5e-3)), flag = bool(true));
            write_state(data = a, input = acc)[name = string("s")];
            tensor<fp32, [1]> y = cond(pred = b) () {
                tensor_buffer<fp16, shape=[16, 1], strides=[64, 1], interleave_factors=[1, 1]> z = f(x = a); // why
            } -> (z) (fp16 k) {
            } -> (k);
        } -> (y);
}"#;

/// Parses, and if that succeeds prints and parses again.
fn check(source: &str) {
    match parse(source) {
        Ok(program) => {
            let again = parse(&print(&program)).unwrap_or_else(|e| panic!("{source}\n{}", e.render("", source)));
            assert!(again == program, "{source}");
        }
        Err(error) => {
            assert!(error.is_parse() && (1..=20).contains(&error.diagnostics().len()));
            assert!(!error.render("test.mil", source).is_empty());
        }
    }
}

/// Numbers that look random and are the same every time (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

#[test]
fn truncations_are_diagnosed() {
    check(SAMPLE);
    for at in (1..SAMPLE.len()).filter(|&at| SAMPLE.is_char_boundary(at)) {
        assert!(parse(&SAMPLE[..at]).is_err(), "{}", &SAMPLE[..at]);
        check(&SAMPLE[..at]);
    }
}

#[test]
fn mutations_are_read_or_diagnosed() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let pieces =
        ["\0", "\"", "\\", "{", "}", "(", ")", "[", "]", "<", ">", ";", ",", "-", "->", "?", "é", "\n", "//"];
    let words =
        ["func f", "tensor", "fp16", "int4", "0x", "1e", "18446744073709551616", "nan", "BLOBFILE", "list<"];
    let (mut read, mut refused) = (0, 0);
    for _ in 0..4_000 {
        let mut chars: Vec<String> = SAMPLE.chars().map(String::from).collect();
        for _ in 0..=random.below(3) {
            let at = random.below(chars.len());
            match random.below(5) {
                0 => _ = chars.remove(at),
                1 => chars[at] = pieces[random.below(pieces.len())].to_string(),
                2 => chars.insert(at, pieces[random.below(pieces.len())].to_string()),
                3 => chars.insert(at, words[random.below(words.len())].to_string()),
                _ => {
                    let to = random.below(chars.len());
                    chars.swap(at, to);
                }
            }
        }
        let source = chars.concat();
        check(&source);
        *(if parse(&source).is_ok() { &mut read } else { &mut refused }) += 1;
    }
    assert!(read > 100 && refused > 2_000, "{read} read, {refused} refused");
}

/// Runs `f` with little stack.
fn on_a_small_stack(f: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(512 << 10).spawn(f).unwrap().join().unwrap();
}

#[track_caller]
fn refused(source: &str, message: &str) {
    let error = parse(source).unwrap_err();
    assert!(error.to_string().contains(message), "{error}");
    check(source);
}

#[test]
fn nesting_is_bounded() {
    let statement = |s: &str| format!("program(1.3){{func main<ios18>(){{{s}}}->();}}");
    for n in [70, 20_000] {
        let sources = [
            format!("f(a = {}", "(".repeat(n)),
            format!("f(a = tensor<fp16, [{}]>({}", vec!["1"; n].join(","), "[".repeat(n)),
            format!("{}fp16", "list<".repeat(n)),
            format!("{}fp16", "tuple<".repeat(n)),
            "f() () {".repeat(n),
            format!("f(a = tensor<fp16, [1]>({}", "BLOBFILE(path = tensor<fp16, [1]>(".repeat(n)),
        ]
        .map(|s| statement(&s));
        on_a_small_stack(move || sources.iter().for_each(|s| refused(s, "nested deeper than 64 levels")));
    }
    // What is just allowed is read, and can be printed, compared and dropped.
    let deep = statement(&format!("f(a = {}x{});", "(".repeat(64), ")".repeat(64)));
    let blocks = statement(&format!("{}{}", "f() () {".repeat(64), "} -> ();".repeat(64)));
    on_a_small_stack(move || {
        assert!(parse(&deep).is_ok() && parse(&blocks).is_ok());
        check(&deep);
        check(&blocks);
    });
}

#[test]
fn declared_sizes_cost_nothing() {
    let constant =
        |ty: &str, literal: &str| format!("program(1.3){{func f<ios18>(){{c()[v = {ty}({literal})];}}->();}}");
    for (shape, literal, message) in [
        (
            "[9223372036854775808]",
            "[1]",
            "in dimension 0 of a tensor of type `fp16 [9223372036854775808]`, found 1",
        ),
        ("[4294967296, 4294967296, 4294967296]", "[[[1]]]", "expected size 4294967296 in dimension 2"),
        ("[18446744073709551616]", "[1]", "expected a size"),
        ("[18446744073709551615]", "[]", "expected size 18446744073709551615"),
        ("[-1]", "[]", "expected a size"),
    ] {
        refused(&constant(&format!("tensor<fp16, {shape}>"), literal), message);
    }
    // No elements at all are fine, whatever the sizes below.
    check(&constant("tensor<fp16, [0, 9223372036854775808, 4]>", "[]"));
    check(&constant("tensor<fp16, [?, 9223372036854775808, 4]>", "[]"));
    refused(
        &constant("list<fp16, 9223372036854775808>", "[0]"),
        "expected a list of 9223372036854775808, found 1",
    );
}

#[test]
fn long_lines_and_many_mistakes_stay_small() {
    let mistakes = format!("program(1.3){{func f<ios18>(){{{}}}->();}}", "x y z;".repeat(10_000));
    let error = parse(&mistakes).unwrap_err();
    assert_eq!(error.diagnostics().len(), 20);
    let rendered = error.render("test.mil", &mistakes);
    assert!(rendered.len() < 20_000, "{} bytes", rendered.len());

    let long = format!("program(1.3){{func f<ios18>(){{{} ~ {}", "a".repeat(1 << 17), "b".repeat(1 << 17));
    let rendered = parse(&long).unwrap_err().render("test.mil", &long);
    assert!(rendered.len() < 20_000, "{} bytes", rendered.len());
}
