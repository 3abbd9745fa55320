//! Ranges of sizes and costs. They saturate instead of overflowing.

/// The least and the greatest size or cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Range {
    pub(crate) const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    pub(super) const fn of(min: u64, max: u64) -> Self {
        Self { min, max }
    }

    pub(super) const fn fixed(amount: u64) -> Self {
        Self { min: amount, max: amount }
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(super) const fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Multiplies by a factor, rounding up.
    pub(super) fn scaled(self, factor: f64) -> Self {
        Self { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    /// Returns the range that covers both.
    pub(super) fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the estimates of cel-go are rounded in this way; the cast saturates"
)]
fn scaled(amount: u64, factor: f64) -> u64 {
    (amount as f64 * factor).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_saturate_instead_of_overflowing() {
        let unknown = Range::UNKNOWN;
        assert_eq!(unknown.plus(Range::fixed(1)), Range::of(1, u64::MAX));
        assert_eq!(unknown.times(unknown), unknown);
        assert_eq!(unknown.scaled(2.0), unknown);
        assert_eq!(Range::of(1, 11).scaled(0.1), Range::of(1, 2));
    }
}
