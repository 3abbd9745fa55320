//! Well-known labels and annotations, as on Kubernetes' page of that name.

/// Names the class of an Ingress from before `spec.ingressClassName` existed.
pub const INGRESS_CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
