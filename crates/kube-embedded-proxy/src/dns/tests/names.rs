use super::{ADDRESSES, records};
use crate::dns::records::{Data, Kind, Lookup, Record, Records, ServiceRecords};
use kube_embedded_core::informer::ObjectKey;

/// The result in one line: `A 10.96.5.5`, `SRV 100 80 web.shop…`, `NODATA`, `NXDOMAIN`.
fn described(records: &Records, name: &str, kind: Kind) -> String {
    let shown = |record: &Record| match &record.data {
        Data::A(address) => format!("A {address}"),
        Data::Cname(target) => format!("CNAME {target}"),
        Data::Ns(target) => format!("NS {target}"),
        Data::Ptr(target) => format!("PTR {target}"),
        Data::Soa => "SOA".to_owned(),
        Data::Srv { weight, port, target } => format!("SRV {weight} {port} {target}"),
        Data::Txt(text) => format!("TXT {text}"),
    };
    let list = |records: &[Record]| records.iter().map(shown).collect::<Vec<_>>().join(", ");
    match records.lookup(name, kind) {
        Lookup::Foreign => "foreign".to_owned(),
        Lookup::NoSuchName => "NXDOMAIN".to_owned(),
        Lookup::Alias(target) => format!("alias {target}"),
        Lookup::Found { answers, additional } => {
            assert!(answers.iter().all(|answer| answer.name == name), "{answers:?}");
            match (&answers[..], &additional[..]) {
                ([], []) => "NODATA".to_owned(),
                (_, []) => list(&answers),
                _ => format!("{} + {}", list(&answers), list(&additional)),
            }
        }
    }
}

#[test]
fn names_have_the_records_of_the_specification() {
    use Kind::{A, Cname, Ns, Other, Ptr, Soa, Srv, Txt};
    let records = records();
    for (name, kind, expected) in [
        // The zone.
        ("cluster.local", Soa, "SOA"),
        ("cluster.local", Ns, "NS ns.dns.cluster.local + A 10.96.0.10"),
        ("cluster.local", A, "NODATA"),
        ("ns.dns.cluster.local", A, "A 10.96.0.10"),
        ("dns-version.cluster.local", Txt, "TXT 1.1.0"),
        ("svc.cluster.local", A, "NODATA"),
        ("shop.svc.cluster.local", A, "NODATA"),
        ("nope.svc.cluster.local", A, "NXDOMAIN"),
        ("nope.cluster.local", A, "NXDOMAIN"),
        ("example.com", A, "foreign"),
        ("notcluster.local", A, "foreign"),
        ("local", A, "foreign"),
        ("", Ns, "foreign"),
        // A cluster IP.
        ("web.shop.svc.cluster.local", A, "A 10.96.5.5"),
        ("web.shop.svc.cluster.local", Other, "NODATA"),
        ("web.shop.svc.cluster.local", Cname, "NODATA"),
        ("web.default.svc.cluster.local", A, "NXDOMAIN"),
        ("idle.shop.svc.cluster.local", A, "A 10.96.5.6"),
        ("web.shop.cluster.local", A, "NXDOMAIN"),
        ("10-244-1-5.web.shop.svc.cluster.local", A, "A 10.244.1.5"),
        ("10-244-1-6.web.shop.svc.cluster.local", A, "NXDOMAIN"),
        ("a.b.c.web.shop.svc.cluster.local", A, "NXDOMAIN"),
        // Ports.
        (
            "_http._tcp.web.shop.svc.cluster.local",
            Srv,
            "SRV 100 80 web.shop.svc.cluster.local + A 10.96.5.5",
        ),
        (
            "_dns._udp.web.shop.svc.cluster.local",
            Srv,
            "SRV 100 53 web.shop.svc.cluster.local + A 10.96.5.5",
        ),
        ("_http._udp.web.shop.svc.cluster.local", Srv, "NXDOMAIN"),
        ("_http._tcp.web.shop.svc.cluster.local", A, "NODATA"),
        ("_tcp.web.shop.svc.cluster.local", Srv, "NODATA"),
        ("_sctp.web.shop.svc.cluster.local", Srv, "NXDOMAIN"),
        ("http._tcp.web.shop.svc.cluster.local", Srv, "NXDOMAIN"),
        (
            "web.shop.svc.cluster.local",
            Srv,
            "SRV 50 53 web.shop.svc.cluster.local, \
            SRV 50 80 web.shop.svc.cluster.local + A 10.96.5.5",
        ),
        ("_._tcp.idle.shop.svc.cluster.local", Srv, "NXDOMAIN"),
        // Headless Services.
        ("db.shop.svc.cluster.local", A, "A 10.244.0.7, A 10.244.0.9, A 10.244.1.7"),
        ("db.shop.svc.cluster.local", Other, "NODATA"),
        ("db-0.db.shop.svc.cluster.local", A, "A 10.244.0.7"),
        ("db-0.db.shop.svc.cluster.local", Other, "NODATA"),
        ("db-1.db.shop.svc.cluster.local", A, "A 10.244.1.7"),
        ("db-2.db.shop.svc.cluster.local", A, "NXDOMAIN"),
        ("10-244-0-9.db.shop.svc.cluster.local", A, "A 10.244.0.9"),
        ("10-244-0-7.db.shop.svc.cluster.local", A, "NXDOMAIN"),
        ("portless.shop.svc.cluster.local", A, "A 10.244.0.4"),
        ("empty.shop.svc.cluster.local", A, "NXDOMAIN"),
        (
            "_sql._tcp.db.shop.svc.cluster.local",
            Srv,
            "SRV 33 5434 10-244-0-9.db.shop.svc.cluster.local, \
             SRV 33 5433 db-0.db.shop.svc.cluster.local, \
             SRV 33 5433 db-1.db.shop.svc.cluster.local \
             + A 10.244.0.9, A 10.244.0.7, A 10.244.1.7",
        ),
        // Other names.
        ("outside.shop.svc.cluster.local", A, "alias www.example.com"),
        ("outside.shop.svc.cluster.local", Srv, "alias www.example.com"),
        ("_http._tcp.outside.shop.svc.cluster.local", Srv, "NXDOMAIN"),
        ("numbers.shop.svc.cluster.local", A, "NXDOMAIN"),
        // Pods.
        ("10-244-1-2.shop.pod.cluster.local", A, "A 10.244.1.2"),
        ("10-244-1-2.shop.pod.cluster.local", Other, "NODATA"),
        ("10-244-1-2.nope.pod.cluster.local", A, "NXDOMAIN"),
        ("web-0.shop.pod.cluster.local", A, "NXDOMAIN"),
        ("shop.pod.cluster.local", A, "NODATA"),
        ("nope.pod.cluster.local", A, "NXDOMAIN"),
        // Addresses.
        ("5.5.96.10.in-addr.arpa", Ptr, "PTR web.shop.svc.cluster.local"),
        ("5.5.96.10.in-addr.arpa", A, "NODATA"),
        ("7.0.244.10.in-addr.arpa", Ptr, "PTR db-0.db.shop.svc.cluster.local"),
        ("9.0.244.10.in-addr.arpa", Ptr, "NXDOMAIN"),
        ("1.0.96.10.in-addr.arpa", Ptr, "NXDOMAIN"),
        ("1.2.0.192.in-addr.arpa", Ptr, "foreign"),
        ("x.5.96.10.in-addr.arpa", Ptr, "foreign"),
        ("96.10.in-addr.arpa", Ptr, "foreign"),
    ] {
        assert_eq!(described(&records, name, kind), expected, "{name} {kind:?}");
    }
}

#[test]
fn removed_service_has_no_names() {
    let mut records = records();
    records.set_service(&ObjectKey::new("shop", "db"), None);
    records.set_service(&ObjectKey::new("shop", "web"), None);
    records.set_namespace("default", false);
    for (name, kind) in [
        ("db.shop.svc.cluster.local", Kind::A),
        ("5.5.96.10.in-addr.arpa", Kind::Ptr),
        ("7.0.244.10.in-addr.arpa", Kind::Ptr),
        ("default.svc.cluster.local", Kind::A),
    ] {
        assert_eq!(described(&records, name, kind), "NXDOMAIN", "{name}");
    }
    let service = serde_saphyr::from_str("{spec: {clusterIP: 10.96.5.5}}").unwrap();
    let other = ServiceRecords::new(&service, &[]);
    records.set_service(&ObjectKey::new("default", "web"), Some(other));
    let pointer = described(&records, "5.5.96.10.in-addr.arpa", Kind::Ptr);
    assert_eq!(pointer, "PTR web.default.svc.cluster.local");
    assert_eq!(ADDRESSES.dns().to_string(), "10.96.0.10");
}
