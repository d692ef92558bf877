//! Products of matrices.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [(&[usize], &[usize], usize); 7] = [
        (&[5, 7], &[7, 33], 7),
        (&[2, 3, 17, 9], &[2, 3, 9, 20], 9),
        (&[4, 13, 40], &[40, 50], 40),
        (&[7, 6], &[3, 6, 5], 6),
        (&[2, 3, 1, 4, 5], &[2, 1, 2, 5, 6], 5),
        (&[1, 1], &[1, 1], 1),
        (&[2, 70, 30], &[2, 30, 90], 30),
    ];
    let turned = |s: &[usize], turn: bool| {
        let mut s = s.to_vec();
        let rank = s.len();
        if turn {
            s.swap(rank - 1, rank - 2);
        }
        s
    };
    for (tx, ty) in [(false, false), (true, false), (false, true), (true, true)] {
        for (x, y, k) in shapes {
            let (x, y) = (turned(x, tx), turned(y, ty));
            let name = format!("matmul {tx} {ty} of {x:?} {y:?}");
            cases.push(case(name, &[&x, &y], 4 * k, move |b, v| b.matmul(v[0], v[1], tx, ty)));
        }
        // Each product of the definition is rounded before they are added up.
        for (n, m, k, columns) in [(3, 9, 16, 5), (3, 5, 16, 40), (2, 128, 64, 30)] {
            let (x, y) = (turned(&[n, m, k], tx), turned(&[n, k, columns], ty));
            let name = format!("sum of products {tx} {ty} {m} {columns}");
            cases.push(case(name, &[&x, &y], 8 * n * k, move |b, v| {
                let products = b.matmul(v[0], v[1], tx, ty)?;
                b.reduce_sum(products, &[0], m == 5)
            }));
        }
    }
    for bias in [false, true] {
        cases.push(case("linear", &[&[2, 3, 10]], 40, move |b, v| {
            let (weight, vector) = (wave(b, v[0], &[7, 10]), wave(b, v[0], &[7]));
            let call = b.call("linear").arg("x", v[0]).constant("weight", weight);
            if bias { call.constant("bias", vector).finish() } else { call.finish() }
        }));
    }
    cases
}
