//! Kubernetes' quantities (`100m`, `1.5Gi`): whether one is well formed, and how two compare.

/// What Kubernetes answers to anything that is no quantity.
pub const MALFORMED: &str = "quantities must match the regular expression \
    '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Whether the text is a quantity.
///
/// # Errors
/// In Kubernetes' words.
pub fn check(text: &str) -> Result<(), String> {
    parse(text).map(|_| ())
}

/// The value in billionths, rounded up as Kubernetes does; saturates far beyond what any resource
/// needs.
///
/// # Errors
/// As [`check`].
pub fn parse(text: &str) -> Result<i128, String> {
    let malformed = || MALFORMED.to_owned();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(malformed());
    }
    let (base, exponent): (i128, i32) = match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => {
            if !suffix.chars().all(|c| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit()) {
                return Err(malformed());
            }
            let exponent = suffix
                .strip_prefix(['e', 'E'])
                .and_then(|digits| digits.parse().ok())
                .ok_or("unable to parse quantity's suffix")?;
            (1, exponent)
        }
    };
    let digits: String = [whole, fraction].concat();
    let Ok(mantissa) = digits.parse::<i128>() else { return Ok(i128::MAX) };
    let power = 9 + exponent - i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    let scaled = mantissa.saturating_mul(base);
    let value = if power >= 0 {
        scaled.saturating_mul(10_i128.checked_pow(power.unsigned_abs()).unwrap_or(i128::MAX))
    } else {
        let divisor = 10_i128.checked_pow(power.unsigned_abs()).unwrap_or(i128::MAX);
        scaled / divisor + i128::from(scaled % divisor != 0)
    };
    Ok(if text.starts_with('-') { -value } else { value })
}

/// Returns the value in thousandths, rounded up, so that a pod never gets less than it requests.
/// Text that is not a quantity counts as 0: the API server has validated it.
pub fn milli(text: &str) -> i128 {
    const NANO_PER_MILLI: i128 = 1_000_000;
    let nano = parse(text.trim()).unwrap_or(0);
    nano.div_euclid(NANO_PER_MILLI) + i128::from(nano.rem_euclid(NANO_PER_MILLI) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, billionths) in [
            ("1", 1_000_000_000),
            ("100m", 100_000_000),
            ("1.5k", 1_500_000_000_000),
            (".5", 500_000_000),
            ("1e3", 1_000_000_000_000),
            ("64Mi", 67_108_864_000_000_000),
            ("-2", -2_000_000_000),
            ("0.0000000001", 1),
        ] {
            assert_eq!(parse(text), Ok(billionths), "{text}");
        }
        for text in ["", "lots", "1.2.3", "Mi", "1 Gi"] {
            assert_eq!(check(text), Err(MALFORMED.to_owned()), "{text}");
        }
        assert_eq!(check("1KiB"), Err(MALFORMED.to_owned()));
        assert_eq!(check("1ki"), Err("unable to parse quantity's suffix".to_owned()));
    }

    #[test]
    fn milli_rounds_up_and_counts_malformed_as_zero() {
        let cases = [
            ("100m", 100),
            ("2", 2_000),
            ("0.5", 500),
            ("64Mi", 67_108_864_000),
            ("1Gi", 1_073_741_824_000),
            ("1k", 1_000_000),
            ("1e3", 1_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1n", 1),
            ("", 0),
            ("much", 0),
        ];
        for (text, expected) in cases {
            assert_eq!(milli(text), expected, "{text:?}");
        }
    }
}
