//! What cannot be brought about from outside.

use super::*;
use crate::INGRESS_CLASS;
use k8s_openapi::api::networking::v1::IngressClass;
use kube::Api;
use kube_embedded::Cluster;

#[tokio::test]
async fn one_that_ended_by_itself_says_so_and_is_stopped_all_the_same() {
    let config = kube_embedded::Config { nodes: 0, load_balancers: false, ..<_>::default() };
    let cluster = Cluster::start(config).await.unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&cluster.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &<_>::default()).await.unwrap();
    let mut edge = OutsideEdge::start(config, Options::default()).await.unwrap();
    edge.work.running.abort();
    assert!(matches!(edge.failed().await, EdgeError::Ended));
    edge.stop().await;
    let classes: Api<IngressClass> = Api::all(cluster.client());
    assert!(classes.get_opt(INGRESS_CLASS).await.unwrap().is_none(), "it was taken back");
}

#[test]
fn causes_are_one_line() {
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    let error = kube::Error::Service(Box::new(io::Error::other(refused)));
    assert_eq!(cause(&error), "connection refused");
    let status = kube::core::Status::failure("<html>\n<p>", "NotFound").with_code(404);
    assert_eq!(cause(&kube::Error::Api(Box::new(status))), "<html> (HTTP 404)");
}
