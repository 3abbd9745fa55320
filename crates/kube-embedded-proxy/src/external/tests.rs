//! What cannot be brought about through the API of another process.

use super::*;
use crate::{INGRESS_CLASS, testing::ApiServer};
use k8s_openapi::api::networking::v1::IngressClass;
use kube::Api;

#[tokio::test]
async fn edge_that_failed_reports_it_and_can_be_stopped() {
    let api = ApiServer::start().await;
    let mut edge = ExternalEdge::start(api.config().await, Options::default()).await.unwrap();
    let classes: Api<IngressClass> = Api::all(api.client.clone());
    assert!(classes.get_opt(INGRESS_CLASS).await.unwrap().is_some());
    edge.proxy.task.abort();
    assert!(matches!(edge.failed().await, EdgeError::Ended));
    edge.stop().await;
    assert!(classes.get_opt(INGRESS_CLASS).await.unwrap().is_none(), "the class was removed");
}
