//! Functions of single elements.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    [of_one(), of_two(), choices()].into_iter().flatten().collect()
}

fn of_one() -> Vec<Case> {
    let mut cases = Vec::new();
    // What is added to the arguments, so that they lie where the function is defined and smooth.
    let plain = [
        ("abs", 0.0),
        ("ceil", 0.0),
        ("erf", 0.0),
        ("exp", 0.0),
        ("floor", 0.0),
        ("inverse", 3.0),
        ("log", 3.0),
        ("relu", 0.0),
        ("relu6", 5.0),
        ("round", 0.0),
        ("rsqrt", 3.0),
        ("sigmoid", 0.0),
        ("sign", 0.0),
        ("silu", 0.0),
        ("softplus", 0.0),
        ("softsign", 0.0),
        ("sqrt", 3.0),
        ("square", 0.0),
        ("tanh", 0.0),
    ];
    let shapes: [&[usize]; 4] = [&[3, 7, 1, 5], &[1], &[2, 1031], &[1, 33, 2, 16]];
    for (name, offset) in plain {
        for shape in shapes {
            cases.push(case(name, &[shape], 1, move |b, v| b.call(name).arg("x", v[0]).finish()).offset(offset));
        }
    }
    for mode in ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"] {
        cases.push(case(format!("gelu {mode}"), &[&[4, 300]], 2, move |b, v| {
            b.call("gelu").arg("x", v[0]).constant("mode", Tensor::string(mode)).finish()
        }));
    }
    for (name, alpha, beta) in [
        ("clip", -0.5, Some(0.75)),
        ("elu", 0.7, None),
        ("leaky_relu", 0.1, None),
        ("linear_activation", 0.3, Some(-0.2)),
        ("threshold", 0.25, None),
    ] {
        cases.push(case(name, &[&[5, 31]], 1, move |b, v| {
            let (alpha, beta) = (number(b, v[0], alpha), beta.map(|x| number(b, v[0], x)));
            let call = b.call(name).arg("x", v[0]).constant("alpha", alpha);
            match beta {
                Some(beta) => call.constant("beta", beta).finish(),
                None => call.finish(),
            }
        }));
    }
    cases.push(case("clamped_relu", &[&[5, 31]], 1, |b, v| {
        let (alpha, beta) = (number(b, v[0], 0.0), number(b, v[0], 0.5));
        b.call("clamped_relu").arg("x", v[0]).constant("alpha", alpha).constant("beta", beta).finish()
    }));
    cases
}

fn of_two() -> Vec<Case> {
    let pairs: [(&[usize], &[usize]); 9] = [
        (&[3, 7, 1, 5], &[3, 7, 1, 5]),
        (&[3, 7, 1, 64], &[1, 7, 1, 1]),
        (&[3, 7, 1, 64], &[3, 1, 1, 64]),
        (&[1, 7, 1, 1], &[3, 7, 1, 13]),
        (&[2, 600], &[1]),
        (&[], &[2, 5]),
        (&[4, 1, 3, 1], &[1, 5, 1, 6]),
        (&[3], &[2, 4, 3]),
        (&[2, 3, 8, 8], &[1, 1, 8, 8]),
    ];
    let arithmetic = ["add", "sub", "mul", "real_div", "maximum", "minimum", "floor_div"];
    let comparisons = ["equal", "greater", "greater_equal", "less", "less_equal", "not_equal"];
    let mut cases = Vec::new();
    for name in arithmetic.into_iter().chain(comparisons) {
        for (x, y) in pairs {
            let offset = if name == "real_div" { 3.0 } else { 0.0 };
            let build = move |b: &mut Builder, v: &[Value]| {
                let out = b.call(name).arg("x", v[0]).arg("y", v[1]).finish()?;
                if comparisons.contains(&name) { b.cast(out, DType::Fp32) } else { Ok(out) }
            };
            cases.push(case(name, &[x, y], 1, build).offset(offset));
        }
    }
    cases
}

fn choices() -> Vec<Case> {
    let shapes: [[&[usize]; 3]; 2] =
        [[&[3, 1, 5], &[3, 4, 5], &[1, 4, 1]], [&[2, 2, 300], &[1, 1, 1], &[2, 2, 300]]];
    let build = |b: &mut Builder, v: &[Value]| {
        let zero = number(b, v[0], 0.0);
        let zero = b.constant(zero);
        let cond = b.call("greater").arg("x", v[0]).arg("y", zero).finish()?;
        let other = b.call("less").arg("x", v[0]).arg("y", v[1]).finish()?;
        let cond = b.call("logical_or").arg("x", cond).arg("y", other).finish()?;
        let not = b.call("logical_not").arg("x", cond).finish()?;
        let never = b.call("logical_and").arg("x", cond).arg("y", not).finish()?;
        let cond = b.call("logical_xor").arg("x", cond).arg("y", never).finish()?;
        b.call("select").arg("cond", cond).arg("a", v[1]).arg("b", v[2]).finish()
    };
    shapes.iter().map(|s| case("select", s, 1, build)).collect()
}

#[test]
fn a_quotient_just_below_a_whole_number_is_floored_to_the_one_before() {
    let p = program(&[fp32(&[4]), fp32(&[4])], |b, v| {
        Ok(vec![b.call("floor_div").arg("x", v[0]).arg("y", v[1]).finish()?])
    });
    let p = p.unwrap();
    // In f32 the first is 7 before it is floored.
    let tensor = |x: [f32; 4]| Tensor::float(DType::Fp32, &[4], x.map(f64::from).to_vec());
    let inputs = [tensor([0.7, -0.7, 1.0, 3e38]), tensor([0.1, 0.1, 0.0, 1e-38])];
    let found = engine(&planned(&p), &inputs).unwrap();
    let f32s = |x: &Vec<f64>| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
    assert_eq!(found, reference(&p, &inputs).unwrap().iter().map(f32s).collect::<Vec<_>>());
    assert_eq!(found[0], [6.0, -7.0, f32::INFINITY, f32::INFINITY]);
}
