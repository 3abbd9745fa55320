//! Answers queries: from the table of names, from the host's name servers, or, for aliases to names
//! outside of the cluster, from both.

use super::{
    message::{Query, Refusal, Response, Transport, decode_response, server_failure},
    records::{Data, Kind, Lookup, Record, Records},
    upstream::Upstream,
};
use futures::future::BoxFuture;
use rand::seq::SliceRandom;
use simple_dns::RCODE;
use std::sync::{Arc, PoisonError, RwLock};

/// The most aliases that are followed for one query.
const MAX_ALIASES: usize = 8;

/// The answer to a query.
pub(super) enum Answer {
    /// No response: the message was no query.
    Nothing,
    Now(Vec<u8>),
    /// Other name servers are asked first.
    Later(BoxFuture<'static, Vec<u8>>),
}

/// Answers queries.
pub(super) struct Resolver {
    records: Arc<RwLock<Records>>,
    upstream: Arc<Upstream>,
}

/// The result of a search in the table.
enum Found {
    /// All that is known of the name.
    Complete(Response),
    /// The rest of the response are the records of this name, which is not the cluster's.
    Continued(Response, String),
    /// The name is not the cluster's.
    Foreign,
}

impl Resolver {
    pub(super) fn new(records: Arc<RwLock<Records>>, upstream: Upstream) -> Self {
        Self { records, upstream: Arc::new(upstream) }
    }

    /// Answers one message.
    pub(super) fn answer(&self, message: Vec<u8>, transport: Transport) -> Answer {
        let query = match Query::decode(&message) {
            Ok(query) => query,
            Err(Refusal::Drop) => return Answer::Nothing,
            Err(Refusal::Respond(response)) => return Answer::Now(response),
        };
        match self.search(&query) {
            Found::Complete(response) => Answer::Now(response.encode(&query, transport)),
            Found::Foreign => {
                let upstream = self.upstream.clone();
                drop(query);
                Answer::Later(Box::pin(forward(upstream, message, transport)))
            }
            Found::Continued(response, target) => {
                let upstream = self.upstream.clone();
                drop(query);
                Answer::Later(Box::pin(follow(upstream, message, transport, response, target)))
            }
        }
    }

    /// Searches the table, following aliases within the cluster.
    fn search(&self, query: &Query<'_>) -> Found {
        // The table is changed as a whole, so a panic leaves nothing inconsistent.
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let mut response = Response::new();
        response.authoritative = true;
        let mut name = query.name.clone();
        for _ in 0..MAX_ALIASES {
            match records.lookup(&name, query.kind) {
                Lookup::Foreign if name == query.name => return Found::Foreign,
                Lookup::Foreign => return Found::Continued(response, name),
                Lookup::NoSuchName => {
                    response.code = RCODE::NameError;
                    return Found::Complete(response);
                }
                Lookup::Found { mut answers, additional } => {
                    // Clients take the first; the others get their share.
                    answers.shuffle(&mut rand::rng());
                    response.answers.extend(answers);
                    response.additional = additional;
                    return Found::Complete(response);
                }
                Lookup::Alias(target) => {
                    let data = Data::Cname(target.clone());
                    response.answers.push(Record { name, data });
                    if query.kind == Kind::Cname {
                        return Found::Complete(response);
                    }
                    name = target;
                }
            }
        }
        response.code = RCODE::ServerFailure;
        Found::Complete(response)
    }
}

async fn forward(upstream: Arc<Upstream>, message: Vec<u8>, transport: Transport) -> Vec<u8> {
    if let Some(response) = upstream.forward(&message, transport).await {
        return response;
    }
    match Query::decode(&message) {
        Ok(query) => server_failure(&query, transport),
        Err(_) => Vec::new(),
    }
}

/// Completes a response with the records of a name outside of the cluster.
async fn follow(
    upstream: Arc<Upstream>,
    message: Vec<u8>,
    transport: Transport,
    mut response: Response,
    target: String,
) -> Vec<u8> {
    let id = rand::random();
    let asked = match Query::decode(&message) {
        Ok(query) => query.about(&target, id),
        Err(_) => return Vec::new(),
    };
    let mut found = None;
    if let Some(asked) = asked {
        for transport in [Transport::Udp, Transport::Tcp] {
            let Some(received) = upstream.forward(&asked, transport).await else { break };
            found = decode_response(&received, id);
            // Bit 1 of the third byte: truncated.
            if received.get(2).is_none_or(|flags| flags & 2 == 0) {
                break;
            }
        }
    }
    let (code, records) = found.unwrap_or((RCODE::ServerFailure, Vec::new()));
    response.code = code;
    response.foreign = records;
    match Query::decode(&message) {
        Ok(query) => response.encode(&query, transport),
        Err(_) => Vec::new(),
    }
}
