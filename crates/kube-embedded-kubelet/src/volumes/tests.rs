use super::*;
use crate::testing::Folder;
use serde_json::json;

#[test]
fn volumes_hold_the_objects_they_refer_to() {
    let folder = Folder::new();
    let pod: Pod = serde_json::from_value(json!({ "metadata": { "labels": { "a": "x\ny" } }, "spec": {
        "containers": [{ "name": "c", "resources": { "limits": { "memory": "1Mi" } } }], "volumes": [
        { "name": "tmp", "emptyDir": {} },
        { "name": "conf", "configMap": { "name": "cm", "items": [{ "key": "a", "path": "deep/a.txt" }] } },
        { "name": "all", "projected": { "defaultMode": 256, "sources": [
            { "serviceAccountToken": { "path": "token" } },
            { "configMap": { "name": "none", "optional": true } },
            { "downwardAPI": { "items": [
                { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
                { "path": "limit", "mode": 292, "resourceFieldRef":
                    { "containerName": "c", "resource": "limits.memory", "divisor": "1Ki" } },
            ] } },
        ] } },
    ] } }))
    .unwrap();
    assert_eq!(references(&pod), (vec!["cm".to_owned(), "none".to_owned()], vec![]));
    assert_eq!(
        tokens(&pod).map(|(volume, token)| (volume, &*token.path)).collect::<Vec<_>>(),
        [("all", "token")]
    );
    let mut referenced = ReferencedObjects::default();
    referenced.tokens.insert(("all".into(), "token".into()), "secret".into());
    let error = prepare(&pod, &folder.0, &referenced, Place::default()).unwrap_err();
    assert_eq!(error, "MountVolume.SetUp failed for volume \"conf\" : configmap \"cm\" not found");
    let map =
        serde_json::from_value(json!({ "metadata": {}, "data": { "a": "1", "b": "2" } })).unwrap();
    referenced.config_maps.insert("cm".to_owned(), Some(map));
    let volumes = prepare(&pod, &folder.0, &referenced, Place::default()).unwrap();
    assert_eq!((volumes["tmp"].writable, volumes["conf"].writable), (true, false));
    assert_eq!(fs::read_to_string(folder.0.join("conf/deep/a.txt")).unwrap(), "1");
    assert!(!folder.0.join("conf/b").exists());
    let read = |path: &str| fs::read_to_string(folder.0.join(path)).unwrap();
    assert_eq!((&*read("all/token"), &*read("all/labels")), ("secret", "a=\"x\\ny\""));
    assert_eq!(read("all/limit"), "1024");
    // Whatever the umask of the process: containers may run as any user.
    let mode = |path: &str| fs::metadata(folder.0.join(path)).unwrap().permissions().mode();
    assert_eq!((mode("all/token") & 0o777, mode("all/limit") & 0o777), (0o400, 0o444));
    assert_eq!(mode("tmp") & 0o777, 0o777);
    referenced.tokens.insert(("all".into(), "token".into()), "other".into());
    prepare(&pod, &folder.0, &referenced, Place::default()).unwrap();
    assert_eq!(read("all/token"), "other");
}

#[test]
fn refresh_replaces_files_and_never_follows_links() {
    let folder = Folder::new();
    let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": {
        "containers": [{ "name": "c" }], "volumes": [
        { "name": "bad", "secret": { "secretName": "none" } },
        { "name": "conf", "configMap": { "name": "cm" } },
        { "name": "tmp", "emptyDir": {} },
    ] } }))
    .unwrap();
    let mut referenced = ReferencedObjects::default();
    let mut refresh = |data| {
        let map = serde_json::from_value(json!({ "metadata": {}, "data": data })).unwrap();
        referenced.config_maps.insert("cm".to_owned(), Some(map));
        prepare(&pod, &folder.0.join("volumes"), &referenced, Place::default())
            .map(|_| ())
            .unwrap_err()
    };
    let failed = "MountVolume.SetUp failed for volume \"bad\" : secret \"none\" not found";
    // A volume that fails does not hold up those after it.
    assert_eq!(refresh(json!({ "a": "1", "b": "1" })), failed);
    let conf = folder.0.join("volumes/conf");
    let names = || {
        let all = fs::read_dir(&conf).unwrap().map(|e| e.unwrap().file_name());
        let mut all: Vec<_> = all.map(|name| name.into_string().unwrap()).collect();
        all.sort();
        all
    };
    assert_eq!(names(), ["a", "b"]);
    let (own, host) = (folder.0.join("volumes/tmp/own"), folder.0.join("host"));
    for file in [&own, &host] {
        fs::write(file, "stays").unwrap();
    }
    std::os::unix::fs::symlink(&host, conf.join("a..new")).unwrap();
    assert_eq!(refresh(json!({ "a": "2" })), failed);
    assert_eq!(names(), ["a"]);
    assert_eq!(fs::read_to_string(conf.join("a")).unwrap(), "2");
    assert!(!conf.join("a").is_symlink());
    for file in [&own, &host] {
        assert_eq!(fs::read_to_string(file).unwrap(), "stays");
    }
}
