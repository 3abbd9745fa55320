//! Timestamps as the API has them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Cuts off fractions of a second: `metav1.Time` has none, and clients that compare timestamps rely
/// on it.
pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// Returns the current time for a field of type `metav1.Time`.
pub fn now() -> Time {
    Time(whole_seconds(Timestamp::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_cut_off_fractions() {
        let at = Timestamp::from_nanosecond(1_763_000_000_987_654_321).unwrap();
        assert_eq!(whole_seconds(at), Timestamp::from_second(1_763_000_000).unwrap());
        assert_eq!(now().0.subsec_nanosecond(), 0);
    }
}
