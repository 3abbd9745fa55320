//! The macro that turns a table of mutants into tests.

/// Defines a test for each mutant: a lab, the claims that must fail, and a fixture, optionally with a fault
/// injected while the lab runs, or during one of its steps. A lab during which the machine stood still is
/// repeated.
macro_rules! mutants {
    ($($(#[doc = $doc:literal])* $name:ident: $lab:literal fails $fails:expr,
        in $fixture:expr $(, while $fault:expr)? $(, during $step:literal $act:expr)?;)*) => {
        $(
            $(#[doc = $doc])*
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let fails: &[&str] = &$fails;
                let run = async || {
                    let fixture: Fixture = $fixture;
                    mutants!(@run fixture, $lab $(, $fault)? $(, during $step $act)?).await
                };
                let mut result = run().await;
                if result.machine_stood_still() {
                    // What then failed need not be what is wrong.
                    result = run().await;
                }
                result.assert_fails(fails);
            }
        )*

        /// The claims that some mutant makes fail.
        pub(super) fn killed_claims() -> BTreeSet<&'static str> {
            let mut claims = BTreeSet::new();
            $(claims.extend::<&[&str]>(&$fails);)*
            claims
        }
    };
    (@run $fixture:ident, $lab:literal) => { $fixture.run_alone($lab) };
    (@run $fixture:ident, $lab:literal, during $step:literal $act:expr) => {
        $fixture.run_with_step_fault($lab, $step, $act)
    };
    (@run $fixture:ident, $lab:literal, $fault:expr) => { $fixture.run_with_fault($lab, $fault) };
}
