//! Kubernetes' quantities (`100m`, `1.5Gi`), parsed exactly: validation and scheduling share this
//! parser, so they cannot disagree.

/// Kubernetes' message for text that is not a quantity.
pub const MALFORMED: &str = "quantities must match the regular expression \
    '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Checks that the text is a quantity.
///
/// # Errors
/// The message of Kubernetes.
pub fn check(text: &str) -> Result<(), String> {
    parse(text).map(|_| ())
}

/// The parts of the text of a quantity: `-`, `1`, `5`, and the factor of `Gi`.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'t> {
    /// The sign.
    pub is_negative: bool,
    /// The digits before the point.
    pub whole: &'t str,
    /// The digits after it.
    pub fraction: &'t str,
    /// The factor of a binary suffix; 1 for others.
    pub base: i128,
    /// The power of ten of a decimal suffix; 0 for others.
    pub exponent: i32,
}

/// Divides the text of a quantity into its parts.
///
/// # Errors
/// As [`check`].
pub fn parts(text: &str) -> Result<Parts<'_>, String> {
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
    Ok(Parts { is_negative: text.starts_with('-'), whole, fraction, base, exponent })
}

/// Returns the value in billionths, rounded up in magnitude as in Kubernetes. Saturates far above any
/// real amount.
///
/// # Errors
/// As [`check`].
pub fn parse(text: &str) -> Result<i128, String> {
    let Parts { is_negative, whole, fraction, base, exponent } = parts(text)?;
    let digits: String = [whole, fraction].concat();
    let Ok(mantissa) = digits.parse::<i128>() else { return Ok(i128::MAX) };
    let places = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    let power = exponent.saturating_add(9).saturating_sub(places);
    let scaled = mantissa.saturating_mul(base);
    let value = if power >= 0 {
        scaled.saturating_mul(10_i128.checked_pow(power.unsigned_abs()).unwrap_or(i128::MAX))
    } else {
        let divisor = 10_i128.checked_pow(power.unsigned_abs()).unwrap_or(i128::MAX);
        scaled / divisor + i128::from(scaled % divisor != 0)
    };
    Ok(if is_negative { -value } else { value })
}

/// Returns the form in which Kubernetes writes a quantity: no fraction, and the largest suffix that leaves none. Text that is
/// not a quantity, or far above any real amount, is returned as it is.
pub fn canonical(text: &str) -> String {
    const NANO: i128 = 1_000_000_000;
    let Ok(nano) = parse(text) else { return text.to_owned() };
    if nano.unsigned_abs() > i64::MAX.unsigned_abs().into() {
        let whole = nano % NANO == 0 && nano / NANO <= i64::MAX.into();
        if !whole {
            return text.to_owned();
        }
    }
    let is_exponent =
        |at: usize| text[at + 1..].starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c));
    if text.ends_with('i') && nano.abs() >= 1024 * NANO {
        let mut value = nano / NANO + i128::from(nano % NANO != 0);
        let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].into_iter();
        let mut suffix = suffixes.next();
        while value % 1024 == 0
            && let Some(next) = suffixes.next()
        {
            (value, suffix) = (value / 1024, Some(next));
        }
        return format!("{value}{}", suffix.unwrap_or_default());
    }
    if nano == 0 {
        return "0".to_owned();
    }
    let (mut value, mut exponent) = (nano, -9);
    while value % 1000 == 0 && exponent < 18 {
        (value, exponent) = (value / 1000, exponent + 3);
    }
    match (text.find(['e', 'E']).filter(|at| is_exponent(*at)), exponent) {
        (_, 0) => value.to_string(),
        (Some(_), _) => format!("{value}e{exponent}"),
        (None, -9) => format!("{value}n"),
        (None, -6) => format!("{value}u"),
        (None, -3) => format!("{value}m"),
        (None, 3) => format!("{value}k"),
        (None, 6) => format!("{value}M"),
        (None, 9) => format!("{value}G"),
        (None, 12) => format!("{value}T"),
        (None, 15) => format!("{value}P"),
        (None, _) => format!("{value}E"),
    }
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
    use proptest::prelude::*;

    #[test]
    fn quantities_are_parsed_exactly_or_rejected_as_in_kubernetes() {
        for (text, billionths) in [
            ("1", 1_000_000_000),
            ("100m", 100_000_000),
            ("1.5k", 1_500_000_000_000),
            (".5", 500_000_000),
            ("1e3", 1_000_000_000_000),
            ("64Mi", 67_108_864_000_000_000),
            ("-2", -2_000_000_000),
            ("0.0000000001", 1),
            ("1e2147483647", i128::MAX),
            ("1e-2147483648", 1),
        ] {
            assert_eq!(parse(text), Ok(billionths), "{text}");
        }
        for text in ["", "lots", "1.2.3", "Mi", "1 Gi"] {
            assert_eq!(check(text), Err(MALFORMED.to_owned()), "{text}");
        }
        assert_eq!(check("1KiB"), Err(MALFORMED.to_owned()));
        assert_eq!(check("1ki"), Err("unable to parse quantity's suffix".to_owned()));
    }

    /// As kube-apiserver 1.36.2 returns them.
    #[test]
    fn quantities_are_written_in_canonical_form() {
        for (text, expected) in [
            ("1.5Gi", "1536Mi"),
            ("1.5", "1500m"),
            ("0.5Ki", "512"),
            ("1024Mi", "1Gi"),
            ("1025", "1025"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("0.1", "100m"),
            ("0", "0"),
            ("0Gi", "0"),
            ("-1.5", "-1500m"),
            ("1e3", "1e3"),
            ("10e2", "1e3"),
            ("1E", "1E"),
            ("9E", "9E"),
            ("64Mi", "64Mi"),
            ("+5", "5"),
            ("lots", "lots"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    const SUFFIXES: [(&str, i128); 16] = [
        ("n", 1),
        ("u", 1_000),
        ("m", 1_000_000),
        ("", 1_000_000_000),
        ("k", 1_000_000_000_000),
        ("M", 1_000_000_000_000_000),
        ("G", 1_000_000_000_000_000_000),
        ("T", 1_000_000_000_000_000_000_000),
        ("P", 1_000_000_000_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000_000_000_000),
        ("Ki", 1_000_000_000 << 10),
        ("Mi", 1_000_000_000 << 20),
        ("Gi", 1_000_000_000 << 30),
        ("Ti", 1_000_000_000 << 40),
        ("Pi", 1_000_000_000 << 50),
        ("Ei", 1_000_000_000 << 60),
    ];

    /// Generates a quantity with up to three decimal places, and its exact value in 10^-12.
    fn quantity() -> impl Strategy<Value = (String, i128)> {
        (any::<bool>(), 0..1_000_000_i128, 0..4_u32, 0..SUFFIXES.len()).prop_map(
            |(negative, mantissa, places, suffix)| {
                let (suffix, nano) = SUFFIXES[suffix];
                let (sign, factor) = if negative { ("-", -1) } else { ("", 1) };
                let scale = 10_i128.pow(places);
                let (whole, fraction) = (mantissa / scale, mantissa % scale);
                let fraction = match places {
                    0 => String::new(),
                    places => format!(".{fraction:0width$}", width = places as usize),
                };
                let exact = factor * mantissa * nano * (1000 / scale);
                (format!("{sign}{whole}{fraction}{suffix}"), exact)
            },
        )
    }

    proptest! {
        #[test]
        fn parsing_preserves_order((a, exact_a) in quantity(), (b, exact_b) in quantity()) {
            // Rounding may make different values equal, but never swaps them.
            let (lower, higher) = if exact_a <= exact_b { (&a, &b) } else { (&b, &a) };
            prop_assert!(parse(lower).unwrap() <= parse(higher).unwrap(), "{lower} {higher}");
            prop_assert!(milli(lower) <= milli(higher), "{lower} {higher}");
            if (exact_a - exact_b).abs() >= 1000 {
                prop_assert_ne!(parse(&a).unwrap(), parse(&b).unwrap());
            }
        }

        #[test]
        fn parsing_any_text_does_not_panic(text in ".{0,40}", digits in "[-+]?[0-9.]{0,40}[a-zA-Z]{0,2}[-+0-9]{0,12}") {
            let _ = (parse(&text), parse(&digits), milli(&text), milli(&digits));
        }
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
