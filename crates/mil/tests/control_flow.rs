//! Blocks, lists and states: what is refused, and what the interpreter makes of them.

use anemone_mil::ir::DType;
use anemone_mil::{Interpreter, Limits, Result, Tensor, ValidProgram, Weights, text, validate};

/// A program of iOS 18 with these parameters, body and outputs.
fn program(params: &str, body: &str, outputs: &str) -> Result<ValidProgram> {
    let source = format!(
        "program(1.3)\n[buildInfo = dict<string, string>({{}})]\n{{\n\
         func main<ios18>({params}) {{ {body} }} -> ({outputs});\n}}"
    );
    validate(text::parse(&source).unwrap_or_else(|e| panic!("{}", e.render("", &source))), &Limits::none())
}

fn ints(xs: &[i32]) -> Tensor {
    Tensor::i32s(xs)
}

fn run(program: &ValidProgram, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    Interpreter::new(program, &Weights::new())?.run(inputs)
}

/// Doubles `n` until it is at least `limit`.
const DOUBLING: &str = "tensor<int32, [1]> y = while_loop(loop_vars = n)
    (tensor<int32, [1]> v) { tensor<bool, [1]> more = less(x = v, y = limit); } -> (more)
    (tensor<int32, [1]> v) { tensor<int32, [1]> next = add(x = v, y = v); } -> (next);";

#[test]
fn loops_go_on_while_the_condition_holds() {
    let p = program("tensor<int32, [1]> n, tensor<int32, [1]> limit", DOUBLING, "y").unwrap();
    assert_eq!(run(&p, &[ints(&[3]), ints(&[20])]).unwrap(), [ints(&[24])]);
    assert_eq!(run(&p, &[ints(&[3]), ints(&[2])]).unwrap(), [ints(&[3])]);
}

#[test]
fn a_loop_without_end_is_an_error() {
    let p = program("tensor<int32, [1]> n, tensor<int32, [1]> limit", DOUBLING, "y").unwrap();
    let e = run(&p, &[ints(&[0]), ints(&[1])]).unwrap_err().to_string();
    assert!(e.contains("`while_loop` (`y`) goes on after 100000 rounds"), "{e}");
}

#[test]
fn one_branch_is_taken_and_sees_what_is_outside() {
    let body = "tensor<int32, [1]> y = cond(pred = p)
        () { tensor<int32, [1]> a = add(x = n, y = n); } -> (a)
        () { } -> (n);";
    let p = program("tensor<bool, [1]> p, tensor<int32, [1]> n", body, "y").unwrap();
    for (flag, expected) in [(1, 10), (0, 5)] {
        let pred = Tensor::int(DType::Bool, &[1], vec![flag]);
        assert_eq!(run(&p, &[pred, ints(&[5])]).unwrap(), [ints(&[expected])]);
    }
}

#[test]
fn blocks_of_other_types_are_refused() {
    let params = "tensor<bool, [1]> p, tensor<int32, [1]> n, tensor<int32, [2]> m";
    let less = "{ tensor<bool, [1]> more = less(x = v, y = n); } -> (more)";
    let cases = [
        ("tensor<int32, [1]> y = cond(pred = p) () { } -> (n);", "has 1 blocks"),
        (
            "tensor<int32, [1]> y = cond(pred = p) () { } -> (n) () { } -> (m);",
            "the block for false gives int32 [2]",
        ),
        ("tensor<int32, [1]> y = cond(pred = p) () { } -> (n) () { } -> (n, n);", "the block for false gives"),
        ("tensor<int32, [2]> y = cond(pred = p) () { } -> (n) () { } -> (n);", "declared as int32 [2]"),
        (
            "tensor<int32, [1]> y = cond(pred = p) (tensor<int32, [1]> v) { } -> (v) () { } -> (n);",
            "with parameters",
        ),
        ("tensor<int32, [1]> y = add(x = n, y = n) () { } -> (n);", "takes no blocks"),
        (
            &format!(
                "tensor<int32, [1]> y = while_loop(loop_vars = n) (tensor<int32, [1]> v) {less} (tensor<int32, [1]> v) {{ }} -> (m);"
            ),
            "the body gives int32 [2]",
        ),
        (
            &format!(
                "tensor<int32, [1]> y = while_loop(loop_vars = n) (tensor<int32, [1]> v) {less} (tensor<int32, [2]> v) {{ }} -> (v);"
            ),
            "the body takes int32 [2], argument `loop_vars` has int32 [1]",
        ),
        (
            "tensor<int32, [1]> y = while_loop(loop_vars = n) (tensor<int32, [1]> v) { } -> (v) (tensor<int32, [1]> v) { } -> (v);",
            "the condition gives int32 [1], expected one bool",
        ),
        (
            "tensor<int32, [1]> a = add(x = inner, y = n); tensor<int32, [1]> y = cond(pred = p) () { tensor<int32, [1]> inner = add(x = n, y = n); } -> (inner) () { } -> (n);",
            "`inner` is not defined here",
        ),
    ];
    for (body, expected) in cases {
        let e = program(params, body, "y").unwrap_err();
        assert!(e.is_invalid() && e.to_string().contains(expected), "{body}\n{e}");
    }
}

#[test]
fn blocks_in_blocks_end_somewhere() {
    let body = "tensor<int32, [1]> y = cond(pred = p) () { } -> (n) () { } -> (n);";
    let valid = program("tensor<bool, [1]> p, tensor<int32, [1]> n", body, "y").unwrap();
    // The text has a limit of its own, so the program is nested by hand.
    let nested = |depth: usize| {
        let mut program = valid.program().clone();
        let one = program.functions[0].body.calls[0].clone();
        let calls = &mut program.functions[0].body.calls;
        for _ in 1..depth {
            let mut outer = one.clone();
            outer.blocks[0].calls = std::mem::take(calls);
            *calls = vec![outer];
        }
        validate(program, &Limits::none())
    };
    assert!(nested(64).is_ok());
    let e = nested(65).unwrap_err().to_string();
    assert!(e.contains("more than 64 blocks stand in one another"), "{e}");
}

#[test]
fn lists_grow_and_stack() {
    let body = "
        list<tensor<int32, [2]>, 1> empty = make_list(dtype = string(\"int32\"), elem_shape = (int32(2)), init_length = int32(1));
        list<tensor<int32, [2]>, 1> l = list_write(ls = empty, index = int32(3), value = x);
        int32 n = list_length(ls = l);
        tensor<int32, [3, 2]> rows = list_gather(ls = l, indices = tensor<int32, [3]>([3, 2, 3]));
        tensor<int32, [2]> first = list_read(ls = empty, index = int32(0));";
    let p = program("tensor<int32, [2]> x", body, "n, rows, first").unwrap();
    let out = run(&p, &[ints(&[7, 8])]).unwrap();
    assert_eq!(out[0], Tensor::i32(4));
    assert_eq!(out[1].ints(), Some(&[7, 8, 0, 0, 7, 8][..]));
    assert_eq!(out[2], ints(&[0, 0]));

    let far = "
        list<tensor<int32, [2]>, 1> empty = make_list(dtype = string(\"int32\"), elem_shape = (int32(2)));
        list<tensor<int32, [2]>, 1> l = list_write(ls = empty, index = i, value = x);
        tensor<int32, [2]> y = list_read(ls = l, index = i);";
    let p = program("int32 i, tensor<int32, [2]> x", far, "y").unwrap();
    for i in [-1, i32::MAX] {
        let e = run(&p, &[Tensor::i32(i), ints(&[7, 8])]).unwrap_err().to_string();
        assert!(e.contains("argument `index` is"), "{e}");
    }
    let wrong = far.replace("value = x", "value = tensor<int32, [1]>([1])");
    let e = program("int32 i, tensor<int32, [2]> x", &wrong, "y").unwrap_err().to_string();
    assert!(e.contains("gives int32 [1], but the list holds int32 [2]"), "{e}");
}

const COUNT: &str = "
    tensor<fp16, [1]> old = read_state(input = s);
    tensor<fp16, [1]> new = add(x = old, y = x);
    write_state(data = new, input = s);
    tensor<fp16, [1]> y = read_state(input = s);";

#[test]
fn states_live_from_run_to_run() {
    let p = program("state<tensor<fp16, [1]>> s, tensor<fp16, [1]> x", COUNT, "old, y").unwrap();
    let mut i = Interpreter::new(&p, &Weights::new()).unwrap();
    let half = |x: f64| Tensor::float(DType::Fp16, &[1], vec![x]);
    assert_eq!(i.state("s"), Some(&half(0.0)));
    assert_eq!(i.run(&[half(2.0)]).unwrap(), [half(0.0), half(2.0)]);
    assert_eq!(i.run(&[half(3.0)]).unwrap(), [half(2.0), half(5.0)]);
    i.set_state("s", half(10.0)).unwrap();
    assert_eq!(i.run(&[half(1.0)]).unwrap(), [half(10.0), half(11.0)]);
    assert_eq!(i.state("s"), Some(&half(11.0)));
    assert!(i.set_state("t", half(0.0)).is_err() && i.state("t").is_none());
    assert!(i.set_state("s", Tensor::i32(0)).is_err());
}

#[test]
fn a_run_that_fails_leaves_the_states() {
    let body = format!("{COUNT} tensor<fp16, [?]> z = reshape(x = y, shape = shape);");
    let params = "state<tensor<fp16, [1]>> s, tensor<int32, [1]> shape, tensor<fp16, [1]> x";
    let p = program(params, &body, "z").unwrap();
    let mut i = Interpreter::new(&p, &Weights::new()).unwrap();
    let half = |x: f64| Tensor::float(DType::Fp16, &[1], vec![x]);
    assert!(i.run(&[ints(&[2]), half(5.0)]).is_err());
    assert_eq!(i.state("s"), Some(&half(0.0)));
    assert!(i.run(&[ints(&[1]), half(5.0)]).is_ok());
    assert_eq!(i.state("s"), Some(&half(5.0)));
}

#[test]
fn states_are_no_tensors() {
    let params = "state<tensor<fp16, [1]>> s, tensor<fp16, [2]> x";
    let cases = [
        ("tensor<fp16, [1]> y = relu(x = s);", "expected a tensor"),
        ("tensor<fp16, [2]> y = read_state(input = x);", "expected a state"),
        (
            "write_state(data = x, input = s); tensor<fp16, [1]> y = read_state(input = s);",
            "the state holds fp16 [1]",
        ),
    ];
    for (body, expected) in cases {
        let e = program(params, body, "y").unwrap_err().to_string();
        assert!(e.contains(expected), "{body}\n{e}");
    }
}
