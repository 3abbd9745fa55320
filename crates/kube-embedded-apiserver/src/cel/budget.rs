//! What an evaluation may cost, in the units of cel-go: one for each access and call, more for calls
//! that go through text.

use std::fmt::{self, Display, Formatter};

/// The limit of one expression (`PerCallLimit` in `k8s.io/apiserver/pkg/apis/cel`): about a tenth
/// of a second.
const PER_CALL: u64 = 1_000_000;
/// What all expressions on one object may cost together (`RuntimeCELCostBudget`).
const PER_OBJECT: u64 = 10_000_000;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum EvalError {
    /// No function takes these arguments.
    Overload,
    /// It failed: `no such key: x`.
    Failed(String),
    /// It cost more than one expression may.
    CallLimit,
}

impl Display for EvalError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overload => "no such overload",
            Self::Failed(why) => why,
            Self::CallLimit => "operation cancelled: actual cost limit exceeded",
        })
    }
}

impl EvalError {
    pub(super) fn fail<T>(message: impl Into<String>) -> Result<T, Self> {
        Err(Self::Failed(message.into()))
    }
}

/// Counts what evaluations cost.
#[derive(Debug)]
pub(crate) struct Budget {
    spent: u64,
    left: u64,
    /// Expressions within the current one have cost more than was left.
    overdrawn: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self::of(PER_OBJECT)
    }
}

impl Budget {
    /// A budget for several expressions.
    pub(crate) fn of(left: u64) -> Self {
        Self { spent: 0, left, overdrawn: false }
    }

    /// Starts the next expression.
    pub(crate) fn start(&mut self) {
        self.spent = 0;
    }

    /// Books what the expression has cost; false if that is more than was left.
    pub(crate) fn settle(&mut self) -> bool {
        let enough = self.spent <= self.left && !self.overdrawn;
        self.left = self.left.saturating_sub(self.spent);
        self.spent = 0;
        enough
    }

    /// Evaluates an expression on which the current one depends, and that has a limit of its own.
    pub(crate) fn nested<T>(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        if self.is_spent() {
            self.overdrawn = true;
            return Err(EvalError::CallLimit);
        }
        let outer = std::mem::take(&mut self.spent);
        let result = run(self);
        self.overdrawn = !self.settle();
        self.spent = outer;
        result
    }

    /// Returns true if nothing is left.
    pub(crate) fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Charges a cost to the expression.
    pub(super) fn charge(&mut self, cost: usize) -> Result<(), EvalError> {
        self.spent = self.spent.saturating_add(cost as u64);
        if self.spent > PER_CALL { Err(EvalError::CallLimit) } else { Ok(()) }
    }

    /// Charges for going through so many bytes or elements.
    pub(super) fn traverse(&mut self, length: usize) -> Result<(), EvalError> {
        self.charge(length.div_ceil(10))
    }
}
