//! Kubernetes quantities as numbers: `100m`, `64Mi`, `1e3`, `2`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// In thousandths. Nothing that is not a quantity gets here from the API, so such counts as none.
pub(crate) fn milli(quantity: &Quantity) -> i128 {
    parse(&quantity.0).unwrap_or(0)
}

fn parse(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || ".+-".contains(c))).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "" => 1e3,
        "n" => 1e-6,
        "u" => 1e-3,
        "m" => 1.0,
        "k" => 1e6,
        "M" => 1e9,
        "G" => 1e12,
        "T" => 1e15,
        "P" => 1e18,
        "E" => 1e21,
        "Ki" => 1e3 * 1024f64,
        "Mi" => 1e3 * 1024f64.powi(2),
        "Gi" => 1e3 * 1024f64.powi(3),
        "Ti" => 1e3 * 1024f64.powi(4),
        "Pi" => 1e3 * 1024f64.powi(5),
        "Ei" => 1e3 * 1024f64.powi(6),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            1e3 * 10f64.powi(power)
        }
    };
    // Rounded up, so that a pod never gets less than it asked for.
    Some((number * factor).ceil() as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_numbers() {
        let cases = [
            ("100m", Some(100)),
            ("2", Some(2_000)),
            ("0.5", Some(500)),
            ("64Mi", Some(67_108_864_000)),
            ("1Gi", Some(1_073_741_824_000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("1n", Some(1)),
            ("", None),
            ("much", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
