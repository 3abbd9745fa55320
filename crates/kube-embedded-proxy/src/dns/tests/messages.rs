use super::{ADDRESSES, records};
use crate::{
    dns::{
        message::Transport,
        records::{Records, ServiceRecords},
        resolver::{Answer, Resolver},
        server,
        upstream::{Upstream, read_framed, write_framed},
    },
    testing::within as in_time,
};
use kube_embedded_core::{
    backoff::Backoff,
    informer::ObjectKey,
    network::PodSockets,
    task::{Task, spawn_named},
};
use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE,
    rdata::{self, RData},
};
use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// A resolver whose `resolv.conf` is a file of the test.
struct Fixture {
    resolver: Arc<Resolver>,
    path: PathBuf,
}

impl Fixture {
    /// `resolv_conf` is the content of the file, `port` that of the servers in it.
    fn new(records: Records, resolv_conf: &str, port: u16) -> Self {
        let name = format!("kube-embedded-dns-{}-{:x}", std::process::id(), rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, resolv_conf).unwrap();
        let upstream = Upstream::new(path.clone(), port, ADDRESSES);
        let resolver = Arc::new(Resolver::new(Arc::new(RwLock::new(records)), upstream));
        Self { resolver, path }
    }

    async fn ask(&self, query: Vec<u8>, transport: Transport) -> Vec<u8> {
        match self.resolver.answer(query, transport) {
            Answer::Nothing => Vec::new(),
            Answer::Now(response) => response,
            Answer::Later(response) => in_time(response).await,
        }
    }

    /// Asks, and returns `CODE answers / authority / additional`.
    async fn line(&self, name: &str, kind: TYPE) -> String {
        described(&self.ask(query(name, kind), Transport::Udp).await)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn query(name: &str, kind: TYPE) -> Vec<u8> {
    query_with(name, kind, |_| {})
}

fn query_with(name: &str, kind: TYPE, change: impl FnOnce(&mut Packet<'_>)) -> Vec<u8> {
    let mut packet = Packet::new_query(0x1234);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let question = Question::new(Name::new(name).unwrap(), kind.into(), CLASS::IN.into(), false);
    packet.questions.push(question.into_owned());
    change(&mut packet);
    packet.build_bytes_vec().unwrap()
}

fn described(response: &[u8]) -> String {
    let packet = Packet::parse(response).unwrap();
    assert_eq!(packet.id(), 0x1234);
    assert!(packet.has_flags(PacketFlag::RESPONSE));
    let one = |record: &ResourceRecord<'_>| {
        let data = match &record.rdata {
            RData::A(a) => std::net::Ipv4Addr::from(a.address).to_string(),
            RData::CNAME(name) => name.0.to_string(),
            RData::SRV(srv) => format!("{} {}", srv.port, srv.target),
            _ => String::new(),
        };
        format!("{} {:?} {data}", record.name, record.rdata.type_code()).trim_end().to_owned()
    };
    let all =
        |records: &[ResourceRecord<'_>]| records.iter().map(one).collect::<Vec<_>>().join(", ");
    let flags = [
        (PacketFlag::AUTHORITATIVE_ANSWER, " aa"),
        (PacketFlag::TRUNCATION, " tc"),
        (PacketFlag::RECURSION_DESIRED, " rd"),
        (PacketFlag::RECURSION_AVAILABLE, " ra"),
    ];
    let flags = flags.iter().filter(|(flag, _)| packet.has_flags(*flag)).map(|(_, name)| *name);
    let [answers, servers, more] =
        [&packet.answers, &packet.name_servers, &packet.additional_records].map(|r| all(r));
    format!("{:?}{}: {answers} / {servers} / {more}", packet.rcode(), flags.collect::<String>())
}

/// A name server of the host: answers A with 192.0.2.7 over TCP; over UDP with `udp`, by the name.
async fn name_server() -> (u16, Task<()>) {
    // A port that is free over both.
    let (socket, listener, at) = loop {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        if let Ok(listener) = TcpListener::bind(at).await {
            break (socket, listener, at);
        }
    };
    let udp = async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let (response, first) = respond(&buffer[..length], false);
            if let Some(first) = first {
                socket.send_to(&first, client).await.unwrap();
            }
            socket.send_to(&response, client).await.unwrap();
        }
    };
    let tcp = async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let message = read_framed(&mut stream).await.unwrap();
            write_framed(&mut stream, &respond(&message, true).0).await.unwrap();
        }
    };
    (at.port(), spawn_named("name server", async { _ = tokio::join!(udp, tcp) }))
}

/// Returns the response, and one that is sent before it and does not belong to the query.
fn respond(message: &[u8], tcp: bool) -> (Vec<u8>, Option<Vec<u8>>) {
    let query = Packet::parse(message).unwrap();
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    reply.questions = query.questions.clone();
    let name = query.questions[0].qname.clone();
    let text = name.to_string().to_ascii_lowercase();
    let address = |last: u32| RData::A(rdata::A { address: 0xc000_0200 | last });
    let answer = |data| ResourceRecord::new(name.clone(), CLASS::IN, 60, data);
    let mut forged = None;
    match &*text {
        "missing.example.com" => *reply.rcode_mut() = RCODE::NameError,
        "large.example.com" if !tcp => reply.set_flags(PacketFlag::TRUNCATION),
        "forged.example.com" if !tcp => {
            let mut other = Packet::new_reply(query.id().wrapping_add(1));
            other.questions = query.questions.clone();
            other.answers.push(answer(address(66)));
            forged = Some(other.build_bytes_vec().unwrap());
            reply.answers.push(answer(address(7)));
        }
        _ => reply.answers.push(answer(address(7))),
    }
    (reply.build_bytes_vec_compressed().unwrap(), forged)
}

#[tokio::test]
async fn cluster_names_are_answered_with_authority() {
    let fixture = Fixture::new(records(), "", 1);
    let soa = "cluster.local SOA";
    for (name, kind, expected) in [
        (
            "web.shop.svc.cluster.local",
            TYPE::A,
            "NoError aa rd ra: web.shop.svc.cluster.local A 10.96.5.5 /  / ",
        ),
        // The case of the question is kept: some resolvers compare it.
        (
            "WEB.Shop.svc.Cluster.local",
            TYPE::A,
            "NoError aa rd ra: WEB.Shop.svc.Cluster.local A 10.96.5.5 /  / ",
        ),
        ("web.shop.svc.cluster.local", TYPE::AAAA, &*format!("NoError aa rd ra:  / {soa} / ")),
        (
            "web.shop.svc.cluster.local",
            TYPE::Unknown(65),
            &format!("NoError aa rd ra:  / {soa} / "),
        ),
        ("nope.shop.svc.cluster.local", TYPE::A, &format!("NameError aa rd ra:  / {soa} / ")),
        ("1.0.96.10.in-addr.arpa", TYPE::PTR, "NameError aa rd ra:  / in-addr.arpa SOA / "),
        (
            "_http._tcp.web.shop.svc.cluster.local",
            TYPE::SRV,
            "NoError aa rd ra: _http._tcp.web.shop.svc.cluster.local SRV 80 web.shop.svc.cluster.local \
             /  / web.shop.svc.cluster.local A 10.96.5.5",
        ),
        (
            "inside.shop.svc.cluster.local",
            TYPE::A,
            "NoError aa rd ra: inside.shop.svc.cluster.local CNAME web.shop.svc.cluster.local, \
             web.shop.svc.cluster.local A 10.96.5.5 /  / ",
        ),
        (
            "inside.shop.svc.cluster.local",
            TYPE::CNAME,
            "NoError aa rd ra: inside.shop.svc.cluster.local CNAME web.shop.svc.cluster.local /  / ",
        ),
        (
            "nowhere.shop.svc.cluster.local",
            TYPE::A,
            "NameError aa rd ra: nowhere.shop.svc.cluster.local CNAME no.shop.svc.cluster.local /  / ",
        ),
    ] {
        assert_eq!(fixture.line(name, kind).await, expected, "{name}");
    }
    let circle = fixture.line("circle.shop.svc.cluster.local", TYPE::A).await;
    assert!(circle.starts_with("ServerFailure"), "{circle}");
}

#[tokio::test]
async fn other_names_are_forwarded_to_the_servers_of_the_host() {
    let (port, _server) = name_server().await;
    // The first is the cluster's own: asking it would be a loop.
    let fixture = Fixture::new(records(), "nameserver 127.7.0.10\nnameserver 127.0.0.1\n", port);
    for (name, expected) in [
        ("www.example.com", "NoError ra: www.example.com A 192.0.2.7 /  / "),
        ("WWW.example.com", "NoError ra: WWW.example.com A 192.0.2.7 /  / "),
        ("missing.example.com", "NameError ra:  /  / "),
        ("forged.example.com", "NoError ra: forged.example.com A 192.0.2.7 /  / "),
        ("large.example.com", "NoError tc ra:  /  / "),
        (
            "outside.shop.svc.cluster.local",
            "NoError aa rd ra: outside.shop.svc.cluster.local CNAME www.example.com, \
             www.example.com A 192.0.2.7 /  / ",
        ),
    ] {
        assert_eq!(fixture.line(name, TYPE::A).await, expected, "{name}");
    }
    let large = fixture.ask(query("large.example.com", TYPE::A), Transport::Tcp).await;
    assert_eq!(described(&large), "NoError ra: large.example.com A 192.0.2.7 /  / ");
    let cname = fixture.line("outside.shop.svc.cluster.local", TYPE::CNAME).await;
    assert!(cname.ends_with("CNAME www.example.com /  / "), "{cname}");
}

#[tokio::test]
async fn host_without_name_servers_fails_at_once_until_it_has_some() {
    let (port, _server) = name_server().await;
    let fixture = Fixture::new(records(), "search example.com\n", port);
    let www = async || fixture.line("www.example.com", TYPE::A).await;
    assert_eq!(www().await, "ServerFailure rd ra:  /  / ");
    let outside = fixture.line("outside.shop.svc.cluster.local", TYPE::A).await;
    assert!(outside.starts_with("ServerFailure aa rd ra: outside.shop"), "{outside}");
    fs::write(&fixture.path, "nameserver 127.0.0.1\n").unwrap();
    assert_eq!(www().await, "NoError ra: www.example.com A 192.0.2.7 /  / ");
    fs::remove_file(&fixture.path).unwrap();
    assert_eq!(www().await, "ServerFailure rd ra:  /  / ");
}

#[tokio::test]
async fn silent_name_server_is_given_up() {
    // Bound, and never read.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let fixture = Fixture::new(records(), "nameserver 127.0.0.1\n", port);
    for _ in 0..2 {
        assert_eq!(fixture.line("www.example.com", TYPE::A).await, "ServerFailure rd ra:  /  / ");
    }
}

#[tokio::test]
async fn response_fits_into_what_the_client_accepts() {
    let mut records = records();
    let endpoints: Vec<String> =
        (0..200).map(|n| format!("{{addresses: [10.244.3.{n}]}}")).collect();
    let slice = format!("{{addressType: IPv4, endpoints: [{}]}}", endpoints.join(", "));
    let slice = Arc::new(serde_saphyr::from_str(&slice).unwrap());
    let service = serde_saphyr::from_str("{spec: {clusterIP: None}}").unwrap();
    let many = ServiceRecords::new(&service, &[slice]);
    records.set_service(&ObjectKey::new("shop", "many"), Some(many));
    let fixture = Fixture::new(records, "", 1);
    let name = "many.shop.svc.cluster.local";
    let edns = |size: u16| {
        query_with(name, TYPE::A, |packet| {
            let opt = rdata::OPT { opt_codes: Vec::new(), udp_packet_size: size, version: 0 };
            *packet.opt_mut() = Some(opt);
        })
    };
    for (query, transport, limit, complete) in [
        (query(name, TYPE::A), Transport::Udp, 512, false),
        (edns(100), Transport::Udp, 512, false),
        (edns(1232), Transport::Udp, 1232, false),
        (edns(65535), Transport::Udp, 1232, false),
        (query(name, TYPE::A), Transport::Tcp, 65535, true),
        (edns(512), Transport::Tcp, 65535, true),
    ] {
        let response = fixture.ask(query.clone(), transport).await;
        let packet = Packet::parse(&response).unwrap();
        assert!(response.len() <= limit, "{} {limit}", response.len());
        // Clients that do not ask over TCP use what they get.
        assert_eq!(packet.answers.len() == 200, complete);
        assert!(packet.answers.len() > 25, "{}", packet.answers.len());
        assert_eq!(packet.has_flags(PacketFlag::TRUNCATION), !complete);
        let asked = Packet::parse(&query).unwrap();
        assert_eq!(packet.opt().is_some(), asked.opt().is_some());
    }
}

#[tokio::test]
async fn message_that_is_no_query_is_refused() {
    let fixture = Fixture::new(records(), "", 1);
    let name = "web.shop.svc.cluster.local";
    let with = |change: fn(&mut Vec<u8>)| {
        let mut message = query(name, TYPE::A);
        change(&mut message);
        message
    };
    let version = query_with(name, TYPE::A, |packet| {
        let opt = rdata::OPT { opt_codes: Vec::new(), udp_packet_size: 512, version: 1 };
        *packet.opt_mut() = Some(opt);
    });
    for (message, expected) in [
        (Vec::new(), None),
        (with(|m| m.truncate(11)), None),
        // A response: answering it could start a loop.
        (with(|m| m[2] |= 0x80), None),
        (with(|m| m[2] |= 0x20), Some(RCODE::NotImplemented)),
        (with(|m| m.truncate(20)), Some(RCODE::FormatError)),
        (with(|m| m[5] = 0), Some(RCODE::FormatError)),
        (with(|m| m[6] = 255), Some(RCODE::FormatError)),
        (with(|m| *m.last_mut().unwrap() = 3), Some(RCODE::Refused)),
        (version, Some(RCODE::BADVERS)),
    ] {
        let response = fixture.ask(message.clone(), Transport::Udp).await;
        match expected {
            None => assert!(response.is_empty(), "{message:?}"),
            Some(code) => {
                assert_eq!(Packet::parse(&response).unwrap().rcode(), code, "{message:?}")
            }
        }
    }
    assert_eq!(QTYPE::TYPE(TYPE::A), TYPE::A.into());
}

proptest! {
    /// Also pointers in names, announced lengths, options: none of it may end the server.
    #[test]
    fn any_message_is_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        changes in prop::collection::vec((0..60_usize, any::<u8>()), 0..6),
        kind in prop_oneof![0..70_u16, any::<u16>()].prop_map(TYPE::from),
    ) {
        let fixture = Fixture::new(records(), "", 1);
        let mut damaged = query("db.shop.svc.cluster.local", kind);
        for (at, byte) in changes {
            if let Some(slot) = damaged.get_mut(at) {
                *slot = byte;
            }
        }
        for message in [bytes, damaged] {
            for transport in [Transport::Udp, Transport::Tcp] {
                if let Answer::Now(response) = fixture.resolver.answer(message.clone(), transport) {
                    assert!(response.len() >= 12 && response[2] & 0x80 != 0);
                }
            }
        }
    }
}

struct Pod(UdpSocket);

impl PodSockets for Pod {
    fn connect(&self, _: SocketAddr) -> futures::future::BoxFuture<'_, std::io::Result<TcpStream>> {
        unreachable!("not called here")
    }

    fn listen(
        &self,
        _: SocketAddr,
    ) -> futures::future::BoxFuture<'_, std::io::Result<TcpListener>> {
        unreachable!("not called here")
    }

    fn bind_udp(
        &self,
        _: SocketAddr,
    ) -> futures::future::BoxFuture<'_, std::io::Result<UdpSocket>> {
        unreachable!("not called here")
    }

    fn dns_queries(&self) -> Option<&UdpSocket> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn server_answers_datagrams_and_connections() {
    let (port, _name_server) = name_server().await;
    let fixture = Fixture::new(records(), "nameserver 127.0.0.1\n", port);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(10));
    let _tcp = spawn_named("tcp", server::serve_tcp(fixture.resolver.clone(), at, backoff));

    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(at).await.unwrap();
    // As musl does: both queries from one socket, before the server runs.
    for name in ["www.example.com", "web.shop.svc.cluster.local"] {
        client.send(&query(name, TYPE::A)).await.unwrap();
    }
    let _udp =
        spawn_named("udp", server::serve_pod(fixture.resolver.clone(), Arc::new(Pod(socket))));
    let mut received = Vec::new();
    for _ in 0..2 {
        let mut buffer = [0; 512];
        let length = in_time(client.recv(&mut buffer)).await.unwrap();
        received.push(described(&buffer[..length]));
    }
    assert!(received.iter().any(|line| line.contains("A 10.96.5.5")), "{received:?}");
    assert!(received.iter().any(|line| line.contains("A 192.0.2.7")), "{received:?}");

    let mut stream = loop {
        // Until the server listens, the kernel may choose the port itself for the client, which then talks to itself.
        if let Ok(stream) = TcpStream::connect(at).await
            && stream.local_addr().unwrap() != at
        {
            break stream;
        }
        tokio::task::yield_now().await;
    };
    for name in ["web.shop.svc.cluster.local", "www.example.com"] {
        write_framed(&mut stream, &query(name, TYPE::A)).await.unwrap();
        let response = in_time(read_framed(&mut stream)).await.unwrap();
        assert!(described(&response).starts_with("NoError"), "{name}");
    }
}
