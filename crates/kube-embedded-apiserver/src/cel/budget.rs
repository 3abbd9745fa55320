//! What an evaluation may cost, in the units of cel-go: one for each access and call, more for calls
//! that go through text. What cel-go does not count, such as comparing what is inside lists, is
//! counted apart from it, and limited generously.

use std::fmt::{self, Display, Formatter};

/// The limit of one expression (`PerCallLimit` in `k8s.io/apiserver/pkg/apis/cel`): about a tenth
/// of a second.
const PER_CALL: u64 = 1_000_000;
/// How much more may be done than what is counted as cost.
const SLACK: u64 = 4;
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
    /// Turns a message into the error of a function.
    pub(super) fn from_message<T>(result: Result<T, String>) -> Result<T, Self> {
        result.map_err(Self::Failed)
    }

    pub(super) fn fail<T>(message: impl Into<String>) -> Result<T, Self> {
        Err(Self::Failed(message.into()))
    }
}

/// Counts what evaluations cost.
#[derive(Debug)]
pub(crate) struct Budget {
    /// The cost of the expression.
    spent: u64,
    /// All that was done for it.
    work: u64,
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
        Self { spent: 0, work: 0, left, overdrawn: false }
    }

    /// Starts the next expression.
    pub(crate) fn start(&mut self) {
        (self.spent, self.work) = (0, 0);
    }

    /// Books what the expression has cost; false if that is more than was left.
    pub(crate) fn settle(&mut self) -> bool {
        let spent = self.spent.max(self.work / SLACK);
        let enough = spent <= self.left && !self.overdrawn;
        self.left = self.left.saturating_sub(spent);
        self.start();
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
        let outer = (self.spent, self.work);
        self.start();
        let result = run(self);
        self.overdrawn = !self.settle();
        (self.spent, self.work) = outer;
        result
    }

    /// Returns the cost of the expression that was evaluated.
    #[cfg(test)]
    pub(crate) fn cost(&self) -> u64 {
        self.spent
    }

    /// Returns true if nothing is left.
    pub(crate) fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Charges a cost to the expression.
    pub(super) fn spend(&mut self, cost: u64) -> Result<(), EvalError> {
        self.spent = self.spent.saturating_add(cost);
        self.work = self.work.saturating_add(cost);
        self.check()
    }

    fn check(&self) -> Result<(), EvalError> {
        match self.spent > PER_CALL || self.work > PER_CALL * SLACK {
            true => Err(EvalError::CallLimit),
            false => Ok(()),
        }
    }

    /// Returns the cost of the expression so far.
    pub(super) fn spent(&self) -> u64 {
        self.spent
    }

    /// Takes back what a part of the expression has cost, if that is not counted.
    pub(super) fn refund(&mut self, cost: u64) {
        self.spent = self.spent.saturating_sub(cost);
    }

    /// Limits work that is no cost in cel-go.
    pub(super) fn charge(&mut self, work: usize) -> Result<(), EvalError> {
        self.work = self.work.saturating_add(work as u64);
        self.check()
    }

    /// Charges for going through so many bytes or elements.
    pub(super) fn traverse(&mut self, length: usize) -> Result<(), EvalError> {
        self.charge(length.div_ceil(10))
    }
}
