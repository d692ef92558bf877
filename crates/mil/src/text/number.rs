//! Numbers: decimal and C99 hexadecimal, in and out.

use std::fmt::{self, Write};

/// The number that `text` spells: decimal, hexadecimal with a binary exponent, `inf` or `nan`, perhaps with a
/// minus sign. Digits beyond what `f64` holds are rounded to nearest, ties to even.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let (negative, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let x = if let Some(hex) = magnitude.strip_prefix("0x").or_else(|| magnitude.strip_prefix("0X")) {
        parse_hex(hex.as_bytes())?
    } else if magnitude == "inf" {
        f64::INFINITY
    } else if magnitude == "nan" {
        f64::NAN
    } else if magnitude.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        magnitude.parse().ok()?
    } else {
        // `f64::from_str` takes more words than MIL has.
        return None;
    };
    Some(if negative { -x } else { x })
}

/// Hexadecimal digits with a point among them, `p`, and a decimal exponent.
fn parse_hex(text: &[u8]) -> Option<f64> {
    let p = text.iter().position(|b| matches!(b, b'p' | b'P'))?;
    let (digits, exponent) = (&text[..p], &text[p + 1..]);

    // The value is mantissa * 2^scale, plus something below the last bit of the mantissa where `rest`.
    let (mut mantissa, mut scale, mut rest) = (0u64, 0i64, false);
    let (mut n_digits, mut point) = (0, false);
    for &byte in digits {
        if byte == b'.' && !point {
            point = true;
            continue;
        }
        let digit = (byte as char).to_digit(16)?;
        n_digits += 1;
        if mantissa >> 60 == 0 {
            mantissa = mantissa << 4 | u64::from(digit);
            scale -= if point { 4 } else { 0 };
        } else {
            rest |= digit != 0;
            scale += if point { 0 } else { 4 };
        }
    }
    if n_digits == 0 {
        return None;
    }
    let (negative, digits) = match exponent {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, exponent),
    };
    if digits.is_empty() {
        return None;
    }
    let mut exponent = 0i64;
    for &byte in digits {
        // Saturating far beyond what any number of digits that fits in a source can make up for.
        exponent = (exponent * 10 + i64::from((byte as char).to_digit(10)?)).min(1 << 40);
    }
    scale += if negative { -exponent } else { exponent };
    Some(scaled(mantissa, rest, scale))
}

/// `mantissa * 2^scale`, rounded once; `rest` says that a little more than `mantissa` is meant.
fn scaled(mantissa: u64, rest: bool, scale: i64) -> f64 {
    if mantissa == 0 {
        return 0.0;
    }
    let shift = i64::from(mantissa.leading_zeros());
    let mantissa = mantissa << shift;
    // The exponent of the leading bit.
    let exponent = scale - shift + 63;
    if exponent > 1023 {
        return f64::INFINITY;
    }
    // 11 bits go below the 53 of a normal number, more below those of a subnormal one.
    let drop = 11 + (-1022 - exponent).max(0);
    if drop > 64 {
        return 0.0;
    }
    let wide = u128::from(mantissa);
    let (kept, dropped, half) = ((wide >> drop) as u64, wide & ((1 << drop) - 1), 1u128 << (drop - 1));
    let up = dropped > half || (dropped == half && (rest || kept & 1 == 1));
    // A carry out of the mantissa walks into the exponent, which is what it must do.
    let base = if exponent < -1022 { 0 } else { ((exponent + 1022) as u64) << 52 };
    f64::from_bits(base + kept + u64::from(up))
}

/// Writes `x` as coremlc does: hexadecimal, normalised, with the shortest mantissa.
pub(super) fn write_float(out: &mut String, x: f64) -> fmt::Result {
    if x.is_nan() {
        out.push_str("nan");
        return Ok(());
    }
    if x.is_sign_negative() {
        out.push('-');
    }
    if x.is_infinite() {
        out.push_str("inf");
        return Ok(());
    }
    if x == 0.0 {
        out.push_str("0x0p+0");
        return Ok(());
    }
    let bits = x.to_bits();
    let (mut exponent, mut mantissa) = ((bits >> 52 & 0x7ff) as i32 - 1023, bits & ((1 << 52) - 1));
    if exponent == -1023 {
        let shift = mantissa.leading_zeros() - 11;
        mantissa = mantissa << shift & ((1 << 52) - 1);
        exponent = -1022 - shift as i32;
    }
    out.push_str("0x1");
    if mantissa != 0 {
        let zeros = mantissa.trailing_zeros() / 4;
        write!(out, ".{:0width$x}", mantissa >> (4 * zeros), width = 13 - zeros as usize)?;
    }
    write!(out, "p{exponent:+}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_either_spelling() {
        for (text, x) in [
            ("0x1.99cp-4", 0.10003662109375),
            ("-0x1p-24", -(2f64.powi(-24))),
            ("0x0p+0", 0.0),
            ("0x.8p1", 1.0),
            ("0X1P4", 16.0),
            ("0x1.fffffffffffffp+1023", f64::MAX),
            ("0x1.fffffffffffff8p+1023", f64::INFINITY),
            ("0x1p+99999999999999999999", f64::INFINITY),
            ("0x1p-99999999999999999999", 0.0),
            ("0x1p-1074", 5e-324),
            ("0x1p-1075", 0.0),
            ("0x1.8p-1075", 5e-324),
            ("0x0.00000000000000000001p+80", 1.0),
            ("0x100000000000000000000p-80", 1.0),
            ("1e-5", 1e-5),
            ("-.5", -0.5),
            ("4.0960000000000001e-05", 4.096e-5),
            ("-inf", f64::NEG_INFINITY),
        ] {
            assert_eq!(parse_float(text), Some(x), "{text}");
        }
        assert!(parse_float("nan").is_some_and(f64::is_nan));
        // Ties go to even, and a bit far below breaks them.
        let one = 1f64.to_bits();
        for (text, bits) in [
            ("0x1.00000000000008p+0", one),
            ("0x1.00000000000018p+0", one + 2),
            ("0x1.000000000000080000000001p+0", one + 1),
        ] {
            assert_eq!(parse_float(text).map(f64::to_bits), Some(bits), "{text}");
        }
    }

    #[test]
    fn what_is_no_number() {
        for text in
            ["0x1", "0xp+0", "0x1.2.3p+0", "0x1p", "0x1p+", "0x1p+a", "0x1gp+0", "1.2.3", "1e", "-", "infinity"]
                .into_iter()
                .chain(["NaN", "--1", "1f", "0x-1p+0", ".", "1_000"])
        {
            assert_eq!(parse_float(text), None, "{text}");
        }
    }

    #[test]
    fn floats_are_written_shortest_and_read_back() {
        for (x, text) in [
            (0.0, "0x0p+0"),
            (-0.0, "-0x0p+0"),
            (1.0, "0x1p+0"),
            (0.10003662109375, "0x1.99cp-4"),
            (2f64.powi(-24), "0x1p-24"),
            (-5e-324, "-0x1p-1074"),
            (24.0 * 5e-324, "0x1.8p-1070"),
            (f64::MAX, "0x1.fffffffffffffp+1023"),
            (1.0 + f64::EPSILON, "0x1.0000000000001p+0"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            let mut out = String::new();
            write_float(&mut out, x).unwrap();
            assert_eq!(out, text);
            let back = parse_float(&out).unwrap();
            assert!(back.to_bits() == x.to_bits() || (back.is_nan() && x.is_nan()), "{text}");
        }
    }
}
