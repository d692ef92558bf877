//! Convolutions, their transposes, and pooling.

use super::*;

/// Arguments that say where windows lie.
#[derive(Clone, Copy)]
struct Place {
    x: &'static [usize],
    kernel: &'static [usize],
    strides: &'static [i32],
    dilations: &'static [i32],
    pad: &'static [i32],
    pad_type: &'static str,
}

const fn place(
    x: &'static [usize],
    kernel: &'static [usize],
    strides: &'static [i32],
    dilations: &'static [i32],
    pad: &'static [i32],
    pad_type: &'static str,
) -> Place {
    Place { x, kernel, strides, dilations, pad, pad_type }
}

const PLACES: &[Place] = &[
    place(&[2, 6, 9, 8], &[3, 3], &[1, 1], &[1, 1], &[1, 1, 1, 1], "custom"),
    place(&[2, 6, 9, 8], &[2, 3], &[2, 1], &[1, 2], &[0, 0, 0, 0], "valid"),
    place(&[1, 6, 7, 7], &[3, 2], &[2, 3], &[2, 1], &[1, 2, 0, 1], "custom"),
    place(&[3, 6, 5, 6], &[3, 3], &[2, 2], &[1, 1], &[0, 0, 0, 0], "same"),
    place(&[3, 6, 6, 5], &[2, 2], &[1, 2], &[1, 1], &[0, 0, 0, 0], "same_lower"),
    place(&[3, 6, 6, 5], &[3, 2], &[2, 3], &[1, 1], &[1, 1, 1, 1], "custom"),
    place(&[2, 6, 20], &[5], &[2], &[1], &[2, 1], "custom"),
    place(&[2, 6, 9, 8], &[1, 1], &[2, 2], &[1, 1], &[0, 0, 0, 0], "valid"),
    place(&[2, 6, 3, 3], &[3, 3], &[1, 1], &[1, 1], &[0, 0, 0, 0], "valid"),
    place(&[3, 6, 10, 11], &[3, 3], &[1, 1], &[1, 1], &[0, 1, 1, 0], "custom"),
];

pub(super) fn cases() -> Vec<Case> {
    PLACES.iter().flat_map(|&p| [convolutions(p), pools(p)].into_iter().flatten()).collect()
}

fn convolutions(p: Place) -> Vec<Case> {
    let mut cases = Vec::new();
    for (groups, n_out) in [(1, 5), (2, 8), (6, 6)] {
        for (op, bias) in [("conv", false), ("conv", true), ("conv_transpose", false), ("conv_transpose", true)] {
            let (rows, inner) = if op == "conv" { (n_out, 6 / groups) } else { (6, n_out / groups) };
            let terms = 4 * 6 * p.kernel.iter().product::<usize>();
            let name = format!("{op} {:?} {:?} {} in {groups}", p.x, p.kernel, p.pad_type);
            cases.push(case(name, &[p.x], terms, move |b, v| {
                let weight = wave(b, v[0], &[&[rows, inner], p.kernel].concat());
                let vector = wave(b, v[0], &[n_out]);
                let call = b.call(op).arg("x", v[0]).constant("weight", weight);
                let call = call.constant("strides", i32s(p.strides)).constant("dilations", i32s(p.dilations));
                let call = call.constant("pad_type", Tensor::string(p.pad_type)).constant("pad", i32s(p.pad));
                let call = call.constant("groups", Tensor::i32(groups as i32));
                if bias { call.constant("bias", vector).finish() } else { call.finish() }
            }));
        }
    }
    cases
}

fn pools(p: Place) -> Vec<Case> {
    let mut cases = Vec::new();
    let is_even = p.pad.chunks(2).all(|p| p[0] == p[1]) && !p.pad_type.starts_with("same");
    let is_dilated = p.dilations.iter().any(|&d| d > 1);
    for op in ["avg_pool", "l2_pool", "max_pool"] {
        for (ceil, exclude) in [(false, false), (true, false), (false, true), (true, true)] {
            // Only even padding may be rounded up; windows of pools are not dilated.
            if is_dilated || (ceil && !is_even) {
                continue;
            }
            let name = format!("{op} {:?} {:?} {} {ceil} {exclude}", p.x, p.kernel, p.pad_type);
            cases.push(case(name, &[p.x], 2 * p.kernel.iter().product::<usize>(), move |b, v| {
                let sizes: Vec<i32> = p.kernel.iter().map(|&k| k as i32).collect();
                let call = b.call(op).arg("x", v[0]).constant("kernel_sizes", i32s(&sizes));
                let call = call.constant("strides", i32s(p.strides)).constant("pad", i32s(p.pad));
                let call = call.constant("pad_type", Tensor::string(p.pad_type));
                let call = call.constant("ceil_mode", Tensor::bool(ceil));
                if op == "avg_pool" {
                    call.constant("exclude_padding_from_average", Tensor::bool(exclude)).finish()
                } else {
                    call.finish()
                }
            }));
        }
    }
    cases
}
