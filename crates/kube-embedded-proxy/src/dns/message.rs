//! DNS messages: decodes queries, encodes responses that fit into what the client accepts.

use super::records::{Data, Kind, Record};
use kube_embedded_core::network::CLUSTER_DOMAIN;
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord,
    SimpleDnsError, TYPE,
    rdata::{self, RData},
};

/// The time to live of records in seconds, CoreDNS' default. Short: Services of a lab change often.
const TTL: u32 = 5;
/// The size of UDP messages that this server accepts, and never exceeds: the recommendation of the
/// DNS flag day 2020.
const UDP_SIZE: u16 = 1232;
/// The size that a client without EDNS accepts.
const MIN_UDP_SIZE: u16 = 512;
/// The length of a header.
const HEADER: usize = 12;

/// How the client sent its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A query with one question of the class IN.
pub(super) struct Query<'a> {
    packet: Packet<'a>,
    question: Question<'a>,
    /// The name in lower case, without its final dot.
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// The reason why a message gets no answer from the table.
pub(super) enum Refusal {
    /// Not a query: a response to it could start a loop.
    Drop,
    /// The response that says why.
    Respond(Vec<u8>),
}

impl<'a> Query<'a> {
    /// Decodes a message.
    pub(super) fn decode(message: &'a [u8]) -> Result<Self, Refusal> {
        let [id_high, id_low, flags, ..] = *message else { return Err(Refusal::Drop) };
        if message.len() < HEADER || flags & 0x80 != 0 {
            return Err(Refusal::Drop);
        }
        let id = u16::from_be_bytes([id_high, id_low]);
        let refuse = |code| Err(Refusal::Respond(header_only(id, flags, code)));
        if flags & 0x78 != 0 {
            return refuse(RCODE::NotImplemented);
        }
        // Room for the records that a header announces is allocated before they are read.
        let announced = message.chunks_exact(2).skip(2).take(4).map(|pair| match *pair {
            [high, low] => usize::from(u16::from_be_bytes([high, low])),
            _ => 0,
        });
        if announced.sum::<usize>() > message.len() {
            return refuse(RCODE::FormatError);
        }
        let Ok(mut packet) = Packet::parse(message) else { return refuse(RCODE::FormatError) };
        let Some(question) = packet.questions.pop().filter(|_| packet.questions.is_empty()) else {
            return refuse(RCODE::FormatError);
        };
        if question.qclass != QCLASS::CLASS(CLASS::IN) {
            return refuse(RCODE::Refused);
        }
        let kind = match question.qtype {
            QTYPE::TYPE(TYPE::A) => Kind::A,
            QTYPE::TYPE(TYPE::CNAME) => Kind::Cname,
            QTYPE::TYPE(TYPE::NS) => Kind::Ns,
            QTYPE::TYPE(TYPE::PTR) => Kind::Ptr,
            QTYPE::TYPE(TYPE::SOA) => Kind::Soa,
            QTYPE::TYPE(TYPE::SRV) => Kind::Srv,
            QTYPE::TYPE(TYPE::TXT) => Kind::Txt,
            QTYPE::AXFR | QTYPE::IXFR => return refuse(RCODE::Refused),
            _ => Kind::Other,
        };
        let name = question.qname.to_string().to_ascii_lowercase();
        let query = Self { name, kind, question, packet };
        if query.packet.opt().is_some_and(|opt| opt.version != 0) {
            let mut response = Response::new();
            response.code = RCODE::BADVERS;
            return Err(Refusal::Respond(response.encode(&query, Transport::Udp)));
        }
        Ok(query)
    }

    /// Encodes a query for the records of this query's type that another name has.
    pub(super) fn about(&self, name: &str, id: u16) -> Option<Vec<u8>> {
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).ok()?;
        packet.questions.push(Question::new(name, self.question.qtype, CLASS::IN.into(), false));
        packet.build_bytes_vec().ok()
    }

    /// The size of response that the client accepts.
    fn limit(&self, transport: Transport) -> usize {
        let size = match (transport, self.packet.opt()) {
            (Transport::Tcp, _) => u16::MAX,
            (_, Some(opt)) => opt.udp_packet_size.clamp(MIN_UDP_SIZE, UDP_SIZE),
            (_, None) => MIN_UDP_SIZE,
        };
        size.into()
    }
}

/// A response to a query, before it is encoded.
pub(super) struct Response {
    pub(super) code: RCODE,
    /// Whether the records are the cluster's own.
    pub(super) authoritative: bool,
    pub(super) answers: Vec<Record>,
    /// Records of other servers, which follow the cluster's own.
    pub(super) foreign: Vec<ResourceRecord<'static>>,
    pub(super) additional: Vec<Record>,
}

impl Response {
    pub(super) fn new() -> Self {
        Self {
            code: RCODE::NoError,
            authoritative: false,
            answers: Vec::new(),
            foreign: Vec::new(),
            additional: Vec::new(),
        }
    }

    /// Encodes the response. What does not fit is left out, and the response marked as truncated: the
    /// client asks again over TCP, or uses what it got.
    pub(super) fn encode(&self, query: &Query<'_>, transport: Transport) -> Vec<u8> {
        let limit = query.limit(transport);
        let all = self.answers.len() + self.foreign.len();
        let encode = |answers, additional| self.encode_part(query, answers, additional);
        let fits = |message: &Vec<u8>| message.len() <= limit;
        if let Some(message) = [true, false]
            .into_iter()
            .find_map(|additional| encode(all, additional).ok().filter(fits))
        {
            return message;
        }
        let (mut low, mut high) = (0, all);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if encode(middle, false).is_ok_and(|message| fits(&message)) {
                low = middle;
            } else {
                high = middle;
            }
        }
        let failed = || header_only(query.packet.id(), 0, RCODE::ServerFailure);
        encode(low, false).unwrap_or_else(|_| failed())
    }

    /// Encodes the first answers.
    fn encode_part(
        &self,
        query: &Query<'_>,
        answers: usize,
        additional: bool,
    ) -> Result<Vec<u8>, SimpleDnsError> {
        let mut packet = Packet::new_reply(query.packet.id());
        let copied = PacketFlag::RECURSION_DESIRED | PacketFlag::CHECKING_DISABLED;
        for flag in copied.iter().filter(|flag| query.packet.has_flags(*flag)) {
            packet.set_flags(flag);
        }
        packet.set_flags(PacketFlag::RECURSION_AVAILABLE);
        if self.authoritative {
            packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        }
        if answers < self.answers.len() + self.foreign.len() {
            packet.set_flags(PacketFlag::TRUNCATION);
        }
        *packet.rcode_mut() = self.code;
        packet.questions.push(query.question.clone());
        for record in self.answers.iter().take(answers) {
            packet.answers.push(encoded(record, query)?);
        }
        let foreign = answers.saturating_sub(self.answers.len());
        packet.answers.extend(self.foreign.iter().take(foreign).cloned());
        if self.authoritative && self.answers.is_empty() && self.foreign.is_empty() {
            // Says how long the client may remember that there is nothing.
            let zone =
                if query.name.ends_with(".in-addr.arpa") { "in-addr.arpa" } else { CLUSTER_DOMAIN };
            packet.name_servers.push(resource(Name::new(zone)?, &Data::Soa)?);
        }
        for record in self.additional.iter().filter(|_| additional) {
            packet.additional_records.push(encoded(record, query)?);
        }
        if query.packet.opt().is_some() {
            let opt = rdata::OPT { opt_codes: Vec::new(), udp_packet_size: UDP_SIZE, version: 0 };
            *packet.opt_mut() = Some(opt);
        }
        packet.build_bytes_vec_compressed()
    }
}

/// Encodes a record. The name of the question keeps the case in which the client wrote it.
fn encoded<'a>(
    record: &'a Record,
    query: &'a Query<'_>,
) -> Result<ResourceRecord<'a>, SimpleDnsError> {
    let name = match record.name == query.name {
        true => query.question.qname.clone(),
        false => Name::new(&record.name)?,
    };
    resource(name, &record.data)
}

fn resource<'a>(name: Name<'a>, data: &'a Data) -> Result<ResourceRecord<'a>, SimpleDnsError> {
    let data = match data {
        Data::A(address) => RData::A(rdata::A::from(*address)),
        Data::Cname(target) => RData::CNAME(rdata::CNAME(Name::new(target)?)),
        Data::Ns(target) => RData::NS(rdata::NS(Name::new(target)?)),
        Data::Ptr(target) => RData::PTR(rdata::PTR(Name::new(target)?)),
        Data::Srv { weight, port, target } => RData::SRV(rdata::SRV {
            priority: 0,
            weight: *weight,
            port: *port,
            target: Name::new(target)?,
        }),
        Data::Txt(text) => RData::TXT(rdata::TXT::new().with_string(text)?),
        Data::Soa => RData::SOA(rdata::SOA {
            mname: Name::new("ns.dns.cluster.local")?,
            rname: Name::new("hostmaster.cluster.local")?,
            serial: 1,
            refresh: 7200,
            retry: 1800,
            expire: 86400,
            minimum: TTL,
        }),
    };
    Ok(ResourceRecord::new(name, CLASS::IN, TTL, data))
}

/// A response without any section, to a message that cannot be decoded.
fn header_only(id: u16, flags: u8, code: RCODE) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    // The operation and "recursion desired" are those of the query; this is a response.
    let flags = 0x80 | flags & 0x79;
    let mut message = vec![high, low, flags, 0x80 | (code as u16 & 0xf) as u8];
    message.resize(HEADER, 0);
    message
}

/// Returns the response code and the answers of another server's response, if it is one to `id`.
pub(super) fn decode_response(
    message: &[u8],
    id: u16,
) -> Option<(RCODE, Vec<ResourceRecord<'static>>)> {
    let packet = Packet::parse(message).ok()?;
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    let code = packet.rcode();
    let answers = packet.answers.into_iter().map(ResourceRecord::into_owned).collect();
    Some((code, answers))
}

/// Returns the response code `SERVFAIL` to a query: it could not be answered in time.
pub(super) fn server_failure(query: &Query<'_>, transport: Transport) -> Vec<u8> {
    let mut response = Response::new();
    response.code = RCODE::ServerFailure;
    response.encode(query, transport)
}
