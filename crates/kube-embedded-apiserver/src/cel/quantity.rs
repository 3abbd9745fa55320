//! Quantities of Kubernetes in expressions. What counts as an integer depends on how its library keeps a number.

use kube_embedded_core::quantity::{self, Parts};
use std::cmp::Ordering;

/// A billionth, the unit of quantities.
const ONE: i128 = 1_000_000_000;
/// The digits that the integer of [`Scaled`] holds in any case.
const DIGITS: i32 = 18;

/// A quantity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantity {
    billionths: i128,
    /// Not set for a number that Kubernetes keeps as a decimal of any length.
    scaled: Option<Scaled>,
}

/// An integer times a power of ten (`int64Amount`).
#[derive(Clone, Copy, Debug)]
struct Scaled {
    value: i64,
    exponent: i32,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.billionths == other.billionths
    }
}

impl Quantity {
    /// # Errors
    /// The message of Kubernetes for text that is not a quantity.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parts = quantity::parts(text)?;
        Ok(Self { billionths: quantity::parse(text)?, scaled: Scaled::of(parts) })
    }

    pub(super) fn from_int(value: i64) -> Self {
        Self { billionths: i128::from(value) * ONE, scaled: Some(Scaled { value, exponent: 0 }) }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        let scaled = self.scaled.zip(other.scaled).and_then(|(a, b)| a.plus(b));
        Self { billionths: self.billionths.saturating_add(other.billionths), scaled }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        let negated = |of: Scaled| Some(Scaled { value: of.value.checked_neg()?, ..of });
        let scaled = other.scaled.and_then(negated);
        self.plus(Self { billionths: other.billionths.saturating_neg(), scaled })
    }

    pub(super) fn sign(self) -> i64 {
        i64::try_from(self.billionths.signum()).unwrap_or(0)
    }

    /// Returns the amount, if Kubernetes takes it for an integer: `1` and `1k`, but not `1000m`.
    pub(super) fn as_integer(self) -> Option<i64> {
        let Scaled { value, exponent } = self.scaled?;
        value.checked_mul(10_i64.checked_pow(u32::try_from(exponent).ok()?)?)
    }

    #[allow(clippy::cast_precision_loss, reason = "that is what it is for")]
    pub(super) fn as_float(self) -> f64 {
        self.billionths as f64 / ONE as f64
    }

    pub(super) fn compare(self, other: Self) -> Ordering {
        self.billionths.cmp(&other.billionths)
    }
}

impl Scaled {
    /// Returns nothing for a number that has too many digits, or a part below a billionth.
    fn of(parts: Parts<'_>) -> Option<Self> {
        let Parts { is_negative, whole, fraction, base, exponent } = parts;
        let whole = match whole.trim_start_matches('0') {
            "" => "0",
            whole => whole,
        };
        let length = i32::try_from(whole.len() + fraction.len()).ok()?;
        let is_short = match base {
            1 => length <= DIGITS,
            // Roughly, as in Kubernetes: Mi has six digits.
            _ => fraction.is_empty() && length + base.ilog2().cast_signed() * 3 / 10 <= 14,
        };
        let value: i64 = format!("{whole}{fraction}").parse().ok().filter(|_| is_short)?;
        let value = value.checked_mul(i64::try_from(base).ok()?)?;
        let value = if is_negative { -value } else { value };
        let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        (exponent >= -9).then_some(Self { value, exponent })
    }

    fn plus(self, other: Self) -> Option<Self> {
        let (low, high) =
            if self.exponent <= other.exponent { (self, other) } else { (other, self) };
        if high.value == 0 || low.value == 0 {
            return Some(if self.value == 0 { other } else { self });
        }
        let factor = 10_i64.checked_pow(u32::try_from(high.exponent - low.exponent).ok()?)?;
        let value = high.value.checked_mul(factor)?.checked_add(low.value)?;
        Some(Self { value, exponent: low.exponent })
    }
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    #[test]
    fn integers_are_those_of_kubernetes() {
        let integer = |text: &str| Quantity::parse(text).unwrap().as_integer();
        for (text, expected) in [
            ("1", Some(1)),
            ("1k", Some(1000)),
            ("1Gi", Some(1 << 30)),
            ("1e18", Some(1_000_000_000_000_000_000)),
            ("999999999999999999", Some(999_999_999_999_999_999)),
            // It has more digits than are sure to fit.
            ("1000000000000000000", None),
            ("7Ei", None),
            ("1000m", None),
            ("1.000", None),
            ("1e19", None),
        ] {
            assert_eq!(integer(text), expected, "{text}");
        }
        let half = Quantity::parse("500m").unwrap();
        assert_eq!(half.plus(half).as_integer(), None);
        assert_eq!(Quantity::from_int(3).minus(Quantity::from_int(1)).as_integer(), Some(2));
    }
}
