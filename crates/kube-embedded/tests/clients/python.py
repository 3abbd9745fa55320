"""Runs the official Python client and lightkube against a cluster.

usage: python.py KUBECONFIG

Prints the name of each check that passes, and exits with an error at the first that fails.
"""

import sys
import threading

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

NAMESPACE = "default"
GROUP, VERSION, PLURAL = "shop.example.com", "v1", "canaries"


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"by": "python"}), data=data)


def objects(core):
    created = core.create_namespaced_config_map(NAMESPACE, config_map("one", a="1"))
    assert created.metadata.uid and created.data == {"a": "1"}, created
    patched = core.patch_namespaced_config_map("one", NAMESPACE, {"data": {"b": "2"}})
    assert patched.data == {"a": "1", "b": "2"}, patched
    patched.data = {"c": "3"}
    assert core.replace_namespaced_config_map("one", NAMESPACE, patched).data == {"c": "3"}
    try:
        core.replace_namespaced_config_map("one", NAMESPACE, patched)
        raise AssertionError("a stale resource version was accepted")
    except ApiException as error:
        assert error.status == 409 and '"reason":"Conflict"' in error.body, error
    core.delete_namespaced_config_map("one", NAMESPACE)
    try:
        core.read_namespaced_config_map("one", NAMESPACE)
        raise AssertionError("the object was not deleted")
    except ApiException as error:
        assert error.status == 404, error


def patches(api, apps):
    container = client.V1Container(name="c", image="kubeapp:1.0")
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels={"app": "web"}), spec=client.V1PodSpec(containers=[container])
    )
    spec = client.V1DeploymentSpec(
        replicas=0, selector=client.V1LabelSelector(match_labels={"app": "web"}), template=template
    )
    web = client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec)
    created = apps.create_namespaced_deployment(NAMESPACE, web)
    assert created.spec.strategy.type == "RollingUpdate", created
    # The client sends a dictionary as a strategic merge patch, which adds the second container.
    addition = {"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "kubeapp:2.0"}]}}}}
    both = apps.patch_namespaced_deployment("web", NAMESPACE, addition).spec.template.spec.containers
    assert sorted(container.name for container in both) == ["c", "d"], both
    # The client sends a list as a JSON patch.
    removal = [{"op": "remove", "path": "/spec/template/spec/containers/0"}]
    one = apps.patch_namespaced_deployment("web", NAMESPACE, removal).spec.template.spec.containers
    assert len(one) == 1, one
    scaled = apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 0}})
    assert scaled.kind == "Scale", scaled
    apps.delete_namespaced_deployment("web", NAMESPACE, propagation_policy="Foreground")


def pages(core):
    for n in range(25):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"page-{n:02}"))
    names, token, rounds = [], None, 0
    while token != "":
        page = core.list_namespaced_config_map(
            NAMESPACE, label_selector="by=python", limit=10, _continue=token
        )
        names += [item.metadata.name for item in page.items]
        token, rounds = page.metadata._continue or "", rounds + 1
    assert names == [f"page-{n:02}" for n in range(25)] and rounds == 3, (rounds, names)
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="by=python")
    assert not core.list_namespaced_config_map(NAMESPACE, label_selector="by=python").items


def watches(core):
    since = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    seen, stream = [], watch.Watch()

    def write():
        core.create_namespaced_config_map(NAMESPACE, config_map("seen"))
        core.patch_namespaced_config_map("seen", NAMESPACE, {"data": {"x": "y"}})
        core.delete_namespaced_config_map("seen", NAMESPACE)

    writer = threading.Thread(target=write)
    writer.start()
    for event in stream.stream(
        core.list_namespaced_config_map,
        NAMESPACE,
        resource_version=since,
        label_selector="by=python",
        timeout_seconds=30,
    ):
        seen.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            stream.stop()
    writer.join()
    assert seen == [("ADDED", "seen"), ("MODIFIED", "seen"), ("DELETED", "seen")], seen


def custom_objects(api):
    extensions, custom = client.ApiextensionsV1Api(api), client.CustomObjectsApi(api)
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["weight"],
                "properties": {
                    "weight": {"type": "integer", "maximum": 100},
                    "mode": {"type": "string", "default": "header"},
                },
            },
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    extensions.create_custom_resource_definition(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{PLURAL}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "scope": "Namespaced",
                "names": {"kind": "Canary", "plural": PLURAL},
                "versions": [version],
            },
        }
    )
    canary = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Canary",
        "metadata": {"name": "c"},
        "spec": {"weight": 5},
    }
    resource = (GROUP, VERSION, NAMESPACE, PLURAL)
    created = custom.create_namespaced_custom_object(*resource, canary)
    assert created["spec"] == {"weight": 5, "mode": "header"}, created
    try:
        custom.patch_namespaced_custom_object(*resource, "c", {"spec": {"weight": 500}})
        raise AssertionError("a weight of 500 was accepted")
    except ApiException as error:
        assert error.status == 422 and "less than or equal to 100" in error.body, error
    custom.patch_namespaced_custom_object_status(*resource, "c", {"status": {"phase": "Ready"}})
    listed = custom.list_namespaced_custom_object(*resource)["items"]
    assert [item["status"]["phase"] for item in listed] == ["Ready"], listed
    custom.delete_namespaced_custom_object(*resource, "c")
    extensions.delete_custom_resource_definition(f"{PLURAL}.{GROUP}")


def access(api, kubeconfig):
    rbac, reviews = client.RbacAuthorizationV1Api(api), client.AuthorizationV1Api(api)
    rule = client.V1PolicyRule(verbs=["list"], api_groups=[""], resources=["configmaps"])
    role = client.V1Role(metadata=client.V1ObjectMeta(name="lists"), rules=[rule])
    rbac.create_namespaced_role(NAMESPACE, role)
    reference = client.V1RoleRef(api_group="rbac.authorization.k8s.io", kind="Role", name="lists")
    subject = client.RbacV1Subject(kind="User", name="bob")
    binding = client.V1RoleBinding(
        metadata=client.V1ObjectMeta(name="lists"), role_ref=reference, subjects=[subject]
    )
    rbac.create_namespaced_role_binding(NAMESPACE, binding)
    for verb, allowed in [("list", True), ("create", False)]:
        asked = client.V1ResourceAttributes(verb=verb, resource="configmaps", namespace=NAMESPACE)
        spec = client.V1SubjectAccessReviewSpec(user="bob", resource_attributes=asked)
        review = reviews.create_subject_access_review(client.V1SubjectAccessReview(spec=spec))
        assert review.status.allowed is allowed, review
    bob = config.new_client_from_config(kubeconfig)
    bob.set_default_header("Impersonate-User", "bob")
    core = client.CoreV1Api(bob)
    core.list_namespaced_config_map(NAMESPACE)
    try:
        core.list_namespaced_secret(NAMESPACE)
        raise AssertionError("bob may list secrets")
    except ApiException as error:
        assert error.status == 403 and 'User \\"bob\\" cannot list resource' in error.body, error


def lightkube_client(kubeconfig):
    """lightkube uses httpx, and represents resources as classes."""
    try:
        from lightkube import Client, KubeConfig
        from lightkube.models.meta_v1 import ObjectMeta
        from lightkube.resources.core_v1 import ConfigMap
    except ImportError:
        print("skipped: no lightkube")
        return
    kube = Client(config=KubeConfig.from_file(kubeconfig), namespace=NAMESPACE, field_manager="lightkube")
    applied = ConfigMap(metadata=ObjectMeta(name="light", namespace=NAMESPACE), data={"a": "1"})
    applied.apiVersion, applied.kind = "v1", "ConfigMap"
    assert kube.apply(applied).data == {"a": "1"}
    assert kube.patch(ConfigMap, "light", {"data": {"b": "2"}}).data == {"a": "1", "b": "2"}
    assert "light" in [item.metadata.name for item in kube.list(ConfigMap)]
    kube.delete(ConfigMap, "light")


def main():
    kubeconfig = sys.argv[1]
    config.load_kube_config(kubeconfig)
    api = client.ApiClient()
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    assert client.VersionApi(api).get_code().major == "1"
    for name, check in [
        ("objects", lambda: objects(core)),
        ("patches", lambda: patches(api, apps)),
        ("pages", lambda: pages(core)),
        ("watches", lambda: watches(core)),
        ("custom objects", lambda: custom_objects(api)),
        ("access", lambda: access(api, kubeconfig)),
        ("lightkube", lambda: lightkube_client(kubeconfig)),
    ]:
        check()
        print(name, flush=True)


main()
