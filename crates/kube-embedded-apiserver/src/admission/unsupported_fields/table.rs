//! The two lists: what is not acted upon, and what is.

use serde_json::Value;

/// A field that is not acted upon.
pub(super) struct Field {
    /// `PodSpec`.
    pub(super) structure: &'static str,
    /// `hostNetwork`.
    pub(super) name: &'static str,
    /// Values that change nothing, besides empty ones.
    neutral: &'static [&'static str],
    /// The list of the pod's spec outside of which the field is acted upon; empty for everywhere.
    list: &'static str,
    /// What happens instead, and what to do; `{}` is the value.
    pub(super) note: &'static str,
    /// A pod with the field is refused.
    pub(super) is_refused: bool,
}

impl Field {
    pub(super) fn applies_in(&self, list: &str) -> bool {
        self.list.is_empty() || self.list == list
    }

    /// Returns true if the value asks for something.
    pub(super) fn is_set(&self, value: &Value) -> bool {
        match value {
            Value::Null | Value::Bool(false) => false,
            Value::String(text) => !text.is_empty() && !self.neutral.contains(&text.as_str()),
            Value::Number(number) => {
                number.as_f64() != Some(0.0) && !self.neutral.contains(&&*number.to_string())
            }
            Value::Array(values) => !values.is_empty(),
            Value::Object(_) | Value::Bool(true) => true,
        }
    }
}

const fn ignored(structure: &'static str, name: &'static str, note: &'static str) -> Field {
    Field { structure, name, neutral: &[], list: "", note, is_refused: false }
}

const fn refused(structure: &'static str, name: &'static str, note: &'static str) -> Field {
    Field { is_refused: true, ..ignored(structure, name, note) }
}

impl Field {
    const fn but(self, neutral: &'static [&'static str]) -> Self {
        Self { neutral, ..self }
    }

    const fn within(self, list: &'static str) -> Self {
        Self { list, ..self }
    }
}

const NO_SELINUX: &str = "ignored: containers are not confined by SELinux here";
const NO_APP_ARMOR: &str =
    "ignored: containers are confined by namespaces, capabilities and seccomp, not by AppArmor";
const NO_WINDOWS: &str = "ignored: there are no Windows nodes";
const NO_VOLUME: &str = "volumes of this type cannot be mounted here, so a container that mounts it does not start; \
                         use emptyDir, configMap, secret, downwardAPI, projected or hostPath";
const NO_CLAIMS: &str = "ignored: there are no devices to claim";
const OWN_NAMESPACE: &str = "ignored: the pod gets namespaces of its own, none of the host";

/// What is accepted and not acted upon, or refused.
pub(super) static UNSUPPORTED: &[Field] = &[
    ignored(
        "PodSpec",
        "hostNetwork",
        "ignored: the pod gets a network of its own; publish its ports with a Service",
    ),
    ignored("PodSpec", "hostPID", OWN_NAMESPACE),
    ignored("PodSpec", "hostIPC", OWN_NAMESPACE),
    ignored(
        "PodSpec",
        "shareProcessNamespace",
        "ignored: each container has a process namespace of its own",
    ),
    ignored(
        "PodSpec",
        "imagePullSecrets",
        "ignored: images come from local archives, not from a registry",
    ),
    ignored("PodSpec", "readinessGates", "ignored: a pod is ready as soon as its containers are"),
    ignored(
        "PodSpec",
        "priority",
        "ignored: pods are scheduled in order of creation, and none is preempted",
    ),
    ignored(
        "PodSpec",
        "priorityClassName",
        "ignored: pods are scheduled in order of creation, and none is preempted",
    ),
    ignored("PodSpec", "preemptionPolicy", "ignored: no pod is preempted")
        .but(&["PreemptLowerPriority"]),
    refused(
        "PodSpec",
        "runtimeClassName",
        "RuntimeClass {} not found: all pods run in the one sandbox of this cluster",
    ),
    ignored("PodSpec", "resourceClaims", NO_CLAIMS),
    ignored("PodSpec", "resources", "ignored: set resources on containers"),
    ignored("PodSpec", "schedulingGroup", "ignored: pods are scheduled one by one"),
    ignored("PodOS", "name", NO_WINDOWS).but(&["linux"]),
    ignored(
        "Affinity",
        "podAffinity",
        "ignored: the scheduler knows node affinity and topologySpreadConstraints",
    ),
    ignored(
        "Affinity",
        "podAntiAffinity",
        "ignored: the scheduler knows node affinity and topologySpreadConstraints",
    ),
    ignored("TopologySpreadConstraint", "nodeAffinityPolicy", "ignored: it is Honor")
        .but(&["Honor"]),
    ignored("TopologySpreadConstraint", "nodeTaintsPolicy", "ignored: it is Ignore")
        .but(&["Ignore"]),
    ignored("Toleration", "tolerationSeconds", "ignored: a taint evicts no pod that runs")
        .but(&["300"]),
    ignored("PodSecurityContext", "appArmorProfile", NO_APP_ARMOR),
    ignored(
        "PodSecurityContext",
        "fsGroupChangePolicy",
        "ignored: volumes get their group when they are made",
    ),
    ignored("PodSecurityContext", "seLinuxChangePolicy", NO_SELINUX),
    ignored("PodSecurityContext", "seLinuxOptions", NO_SELINUX),
    ignored("PodSecurityContext", "windowsOptions", NO_WINDOWS),
    ignored("SecurityContext", "appArmorProfile", NO_APP_ARMOR),
    ignored(
        "SecurityContext",
        "privileged",
        "containers have no access to the host here, so this one does not start; remove it, or add the capabilities that \
         the program needs",
    ),
    ignored(
        "SecurityContext",
        "procMount",
        "{} is not available here, so the container does not start; remove it",
    )
    .but(&["Default"]),
    ignored("SecurityContext", "seLinuxOptions", NO_SELINUX),
    ignored("SecurityContext", "windowsOptions", NO_WINDOWS),
    ignored("Container", "resizePolicy", "ignored: resources of a running container do not change"),
    ignored(
        "EphemeralContainer",
        "resizePolicy",
        "ignored: resources of a running container do not change",
    ),
    ignored(
        "Container",
        "restartPolicy",
        "ignored: the restartPolicy of the pod holds for its main containers",
    )
    .within("containers"),
    ignored("Container", "restartPolicyRules", "ignored: the restartPolicy of the pod holds"),
    ignored(
        "EphemeralContainer",
        "restartPolicyRules",
        "ignored: the restartPolicy of the pod holds",
    ),
    ignored("Container", "volumeDevices", "ignored: there are no block devices"),
    ignored("EphemeralContainer", "volumeDevices", "ignored: there are no block devices"),
    ignored("ResourceRequirements", "claims", NO_CLAIMS),
    ignored("EnvVarSource", "fileKeyRef", "ignored: the variable is not set"),
    ignored("Lifecycle", "stopSignal", "ignored: containers are stopped by SIGTERM"),
    ignored(
        "LifecycleHandler",
        "tcpSocket",
        "ignored: hooks run commands, send HTTP requests, or sleep",
    ),
    ignored("EmptyDirVolumeSource", "medium", "{} is ignored: the volume is a directory on disk")
        .but(&["Memory"]),
    ignored("VolumeMount", "mountPropagation", "ignored: mounts in a container stay in it")
        .but(&["None"]),
    ignored(
        "VolumeMount",
        "recursiveReadOnly",
        "ignored: mounts below a read-only mount may be writable",
    )
    .but(&["Disabled"]),
    ignored("VolumeProjection", "clusterTrustBundle", "ignored: no file is written"),
    ignored("VolumeProjection", "podCertificate", "ignored: no file is written"),
    ignored("Volume", "awsElasticBlockStore", NO_VOLUME),
    ignored("Volume", "azureDisk", NO_VOLUME),
    ignored("Volume", "azureFile", NO_VOLUME),
    ignored("Volume", "cephfs", NO_VOLUME),
    ignored("Volume", "cinder", NO_VOLUME),
    ignored("Volume", "csi", NO_VOLUME),
    ignored("Volume", "ephemeral", NO_VOLUME),
    ignored("Volume", "fc", NO_VOLUME),
    ignored("Volume", "flexVolume", NO_VOLUME),
    ignored("Volume", "flocker", NO_VOLUME),
    ignored("Volume", "gcePersistentDisk", NO_VOLUME),
    ignored("Volume", "gitRepo", NO_VOLUME),
    ignored("Volume", "glusterfs", NO_VOLUME),
    ignored("Volume", "image", NO_VOLUME),
    ignored("Volume", "iscsi", NO_VOLUME),
    ignored("Volume", "nfs", NO_VOLUME),
    ignored("Volume", "persistentVolumeClaim", NO_VOLUME),
    ignored("Volume", "photonPersistentDisk", NO_VOLUME),
    ignored("Volume", "portworxVolume", NO_VOLUME),
    ignored("Volume", "quobyte", NO_VOLUME),
    ignored("Volume", "rbd", NO_VOLUME),
    ignored("Volume", "scaleIO", NO_VOLUME),
    ignored("Volume", "storageos", NO_VOLUME),
    ignored("Volume", "vsphereVolume", NO_VOLUME),
    ignored(
        "ServiceSpec",
        "externalIPs",
        "ignored: traffic to these addresses does not reach the cluster",
    ),
    ignored("ServiceSpec", "healthCheckNodePort", "ignored: nothing listens on it"),
    ignored("ServiceSpec", "loadBalancerSourceRanges", "ignored: every client is let in"),
    ignored(
        "ServiceSpec",
        "trafficDistribution",
        "ignored: each connection goes to a random endpoint",
    ),
    ignored("ServicePort", "protocol", "{} is not forwarded: only TCP and UDP are")
        .but(&["TCP", "UDP"]),
    ignored("IngressBackend", "resource", "a backend that is no Service responds with 503"),
];

/// What is acted upon, by structure. Names of objects, and what only describes, count.
#[cfg(test)]
pub(super) static HONORED: &[(&str, &str)] = &[
    ("Affinity", "nodeAffinity"),
    ("Capabilities", "add drop"),
    ("ClientIPConfig", "timeoutSeconds"),
    ("ConfigMapEnvSource", "name optional"),
    ("ConfigMapKeySelector", "key name optional"),
    ("ConfigMapProjection", "items name optional"),
    ("ConfigMapVolumeSource", "defaultMode items name optional"),
    (
        "Container",
        "args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe resources \
         securityContext startupProbe stdin stdinOnce terminationMessagePath terminationMessagePolicy tty volumeMounts \
         workingDir",
    ),
    (
        // Validation refuses some of these.
        "EphemeralContainer",
        "args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe resources \
         restartPolicy securityContext startupProbe stdin stdinOnce targetContainerName terminationMessagePath \
         terminationMessagePolicy tty volumeMounts workingDir",
    ),
    ("ContainerPort", "containerPort hostIP hostPort name protocol"),
    (
        "DeploymentSpec",
        "minReadySeconds paused progressDeadlineSeconds replicas revisionHistoryLimit selector strategy template",
    ),
    ("DeploymentStrategy", "rollingUpdate type"),
    ("DownwardAPIProjection", "items"),
    ("DownwardAPIVolumeFile", "fieldRef mode path resourceFieldRef"),
    ("DownwardAPIVolumeSource", "defaultMode items"),
    ("EmptyDirVolumeSource", "sizeLimit"),
    ("EnvFromSource", "configMapRef prefix secretRef"),
    ("EnvVar", "name value valueFrom"),
    ("EnvVarSource", "configMapKeyRef fieldRef resourceFieldRef secretKeyRef"),
    ("ExecAction", "command"),
    ("GRPCAction", "port service"),
    ("HTTPGetAction", "host httpHeaders path port scheme"),
    ("HTTPHeader", "name value"),
    ("HTTPIngressPath", "backend path pathType"),
    ("HTTPIngressRuleValue", "paths"),
    ("HostAlias", "hostnames ip"),
    ("HostPathVolumeSource", "path type"),
    ("IngressBackend", "service"),
    ("IngressRule", "host http"),
    ("IngressServiceBackend", "name port"),
    ("IngressSpec", "defaultBackend ingressClassName rules tls"),
    ("IngressTLS", "hosts secretName"),
    (
        "JobSpec",
        "activeDeadlineSeconds backoffLimit backoffLimitPerIndex completionMode completions managedBy \
         manualSelector maxFailedIndexes parallelism podFailurePolicy podReplacementPolicy selector \
         successPolicy suspend template ttlSecondsAfterFinished",
    ),
    ("KeyToPath", "key mode path"),
    ("LabelSelector", "matchExpressions matchLabels"),
    ("LabelSelectorRequirement", "key operator values"),
    ("Lifecycle", "postStart preStop"),
    ("LifecycleHandler", "exec httpGet sleep"),
    (
        "NodeAffinity",
        "preferredDuringSchedulingIgnoredDuringExecution requiredDuringSchedulingIgnoredDuringExecution",
    ),
    ("NodeSelector", "nodeSelectorTerms"),
    ("NodeSelectorRequirement", "key operator values"),
    ("NodeSelectorTerm", "matchExpressions matchFields"),
    ("ObjectFieldSelector", "apiVersion fieldPath"),
    ("PodDNSConfig", "nameservers options searches"),
    ("PodDNSConfigOption", "name value"),
    ("PodFailurePolicy", "rules"),
    ("PodFailurePolicyOnExitCodesRequirement", "containerName operator values"),
    ("PodFailurePolicyOnPodConditionsPattern", "status type"),
    ("PodFailurePolicyRule", "action onExitCodes onPodConditions"),
    ("PodSchedulingGate", "name"),
    (
        "PodSecurityContext",
        "fsGroup runAsGroup runAsNonRoot runAsUser seccompProfile supplementalGroups supplementalGroupsPolicy sysctls",
    ),
    (
        "PodSpec",
        // A pod is in a user namespace wherever there are any.
        "activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy enableServiceLinks \
         ephemeralContainers hostAliases hostUsers hostname hostnameOverride initContainers nodeName nodeSelector os \
         overhead restartPolicy schedulerName schedulingGates securityContext serviceAccount serviceAccountName \
         setHostnameAsFQDN subdomain terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes",
    ),
    ("PodTemplateSpec", "metadata spec"),
    ("PreferredSchedulingTerm", "preference weight"),
    (
        "Probe",
        "exec failureThreshold grpc httpGet initialDelaySeconds periodSeconds successThreshold tcpSocket \
         terminationGracePeriodSeconds timeoutSeconds",
    ),
    ("ProjectedVolumeSource", "defaultMode sources"),
    ("ReplicaSetSpec", "minReadySeconds replicas selector template"),
    ("ResourceFieldSelector", "containerName divisor resource"),
    ("ResourceRequirements", "limits requests"),
    ("RollingUpdateDeployment", "maxSurge maxUnavailable"),
    ("SeccompProfile", "localhostProfile type"),
    ("SecretEnvSource", "name optional"),
    ("SecretKeySelector", "key name optional"),
    ("SecretProjection", "items name optional"),
    ("SecretVolumeSource", "defaultMode items optional secretName"),
    (
        "SecurityContext",
        "allowPrivilegeEscalation capabilities readOnlyRootFilesystem runAsGroup runAsNonRoot runAsUser seccompProfile",
    ),
    ("ServiceAccountTokenProjection", "audience expirationSeconds path"),
    ("ServiceBackendPort", "name number"),
    ("ServicePort", "appProtocol name nodePort port targetPort"),
    (
        "ServiceSpec",
        "allocateLoadBalancerNodePorts clusterIP clusterIPs externalName externalTrafficPolicy internalTrafficPolicy \
         ipFamilies ipFamilyPolicy loadBalancerClass loadBalancerIP ports publishNotReadyAddresses selector \
         sessionAffinity sessionAffinityConfig type",
    ),
    ("SessionAffinityConfig", "clientIP"),
    ("SleepAction", "seconds"),
    ("SuccessPolicy", "rules"),
    ("SuccessPolicyRule", "succeededCount succeededIndexes"),
    ("Sysctl", "name value"),
    ("TCPSocketAction", "host port"),
    ("Toleration", "effect key operator value"),
    (
        "TopologySpreadConstraint",
        "labelSelector matchLabelKeys maxSkew minDomains topologyKey whenUnsatisfiable",
    ),
    ("Volume", "configMap downwardAPI emptyDir hostPath name projected secret"),
    ("VolumeMount", "mountPath name readOnly subPath subPathExpr"),
    ("VolumeProjection", "configMap downwardAPI secret serviceAccountToken"),
];
