//! `--room URL`: reports the participant's progress to a teacher's room. A room that does not respond is mentioned once,
//! and the run goes on.

use super::reporter::Reporter;
use crate::event::{Event, Stamped};
use crate::room::Progress;
use anyhow::Context as _;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The shortest interval of reports, and the longest: silence is how the room sees that one has left.
const INTERVAL: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(2);

/// The address of a room and the token, as `labs room` prints them: `http://10.0.0.5:8620/#token`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Address {
    host: String,
    token: String,
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.strip_prefix("http://").and_then(|rest| rest.split_once("/#"));
        let is_token =
            |token: &str| token.len() == 32 && token.bytes().all(|b| b.is_ascii_hexdigit());
        match parts.filter(|(host, token)| !host.is_empty() && is_token(token)) {
            Some((host, token)) => Ok(Self { host: host.to_owned(), token: token.to_owned() }),
            None => Err("expected what `room` prints: http://ADDRESS:PORT/#TOKEN".to_owned()),
        }
    }
}

/// The state that is to be reported, and whether it has changed and is the last.
#[derive(Default)]
struct State {
    progress: Progress,
    changed: bool,
    ended: bool,
}

/// Reports progress from a thread of its own, so that nothing waits for the network.
pub(super) struct Room {
    shared: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Room {
    pub(super) fn start(address: Address, name: String) -> anyhow::Result<Self> {
        let state =
            State { progress: Progress { name, ..Progress::default() }, ..State::default() };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("room".into());
        let thread = thread.spawn(move || report(&address, &of_thread));
        Ok(Self { shared, thread: Some(thread.context("failed to start a thread")?) })
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.changed = true;
        changed.notify_all();
    }
}

impl Reporter for Room {
    fn event(&mut self, stamped: &Stamped) {
        match &stamped.event {
            Event::LabStarted { claims, .. } => self.change(|state| {
                let lab = stamped.lab.unwrap_or_default().to_owned();
                let open = claims.iter().map(|claim| ((*claim).to_owned(), "open".to_owned()));
                let (step, name) = (String::new(), state.progress.name.clone());
                state.progress = Progress { name, lab, step, claims: open.collect() };
            }),
            Event::StepStarted { step, .. } => self.change(|state| {
                state.progress.step = step.chars().take(80).collect();
            }),
            Event::ClaimJudged { claim, verdict, .. } => self.change(|state| {
                let known = state.progress.claims.iter_mut().find(|(id, _)| id == claim);
                known.into_iter().for_each(|(_, word)| *word = verdict.outcome.word().to_owned());
            }),
            Event::RunEnded { .. } => self.change(|state| state.progress.step = "ended".to_owned()),
            _ => {}
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.change(|state| state.ended = true);
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by its hook, and must not end the run.
            _ = thread.join();
        }
        Ok(())
    }
}

/// Posts the state whenever it has changed, until it is the last.
fn report(address: &Address, (state, changed): &(Mutex<State>, Condvar)) {
    let mut mentioned = false;
    loop {
        let guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(guard, HEARTBEAT, |state| !state.changed);
        let (mut guard, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (progress, ended) = (guard.progress.clone(), guard.ended);
        guard.changed = false;
        drop(guard);
        if let Err(error) = post(address, &progress)
            && !std::mem::replace(&mut mentioned, true)
        {
            _ = writeln!(
                io::stderr(),
                "the room at {} does not take reports: {error}",
                address.host
            );
        }
        if ended {
            return;
        }
        let guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        _ = changed.wait_timeout_while(guard, INTERVAL, |state| !state.ended);
    }
}

fn post(Address { host, token }: &Address, progress: &Progress) -> io::Result<()> {
    let body = serde_json::to_string(progress)?;
    let mut result = Err(io::Error::other("the name has no address"));
    for address in host.to_socket_addrs()? {
        result = TcpStream::connect_timeout(&address, TIMEOUT);
        if result.is_ok() {
            break;
        }
    }
    let mut stream = result?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let length = body.len();
    let request = format!(
        "POST /progress HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    stream.take(4096).read_to_end(&mut response)?;
    let response = String::from_utf8_lossy(&response);
    match response.split(' ').nth(1) {
        Some("204") => Ok(()),
        Some("401") => Err(io::Error::other("the token is wrong")),
        Some(_) => {
            let reason = response.split("\r\n\r\n").nth(1).unwrap_or_default();
            Err(io::Error::other(reason.to_owned()))
        }
        None => Err(io::Error::other("no response")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use std::net::SocketAddr;
    use tokio::sync::oneshot;

    fn get(address: SocketAddr, path: &str, token: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn address_is_what_the_room_prints() {
        let token = "0123456789abcdef0123456789abcdef";
        let parse = |text: String| text.parse::<Address>();
        let address = Address { host: "10.0.0.5:8620".into(), token: token.into() };
        assert_eq!(parse(format!("http://10.0.0.5:8620/#{token}")), Ok(address));
        for bad in ["https://a:1/#", "http://a:1/", "a:1", "http:///#"] {
            assert!(
                parse(format!("{bad}{}", if bad.ends_with('#') { token } else { "" })).is_err(),
                "{bad}"
            );
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn progress_of_a_run_arrives_and_is_shown_only_to_the_page() {
        let (sender, ready) = oneshot::channel();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = tokio::spawn(crate::room::serve(listen, |address, join, view| {
            _ = sender.send((address, join.to_owned(), view.to_owned()));
        }));
        let (address, join, view) = ready.await.unwrap();
        let reported = tokio::task::spawn_blocking(move || {
            let of = Address { host: address.to_string(), token: join.clone() };
            let mut room = Room::start(of, "Ada <b>".into()).unwrap();
            for event in fixture::events() {
                room.event(&Stamped { at: 0.0, lab: Some("phase4"), event });
            }
            room.finish().unwrap();
            let state = get(address, "/progress", &view);
            let wrong =
                post(&Address { host: address.to_string(), token: view }, &Progress::default());
            (state, get(address, "/progress", &join), get(address, "/", ""), wrong)
        });
        let (state, refused, page, wrong) = reported.await.unwrap();
        assert!(state.contains("\"name\":\"Ada <b>\"") && state.contains("\"ended\""), "{state}");
        assert!(state.contains("[\"a-claim\",\"holds\"]"), "{state}");
        assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
        assert!(page.contains("content-security-policy: default-src 'self'"), "{page}");
        assert_eq!(wrong.unwrap_err().to_string(), "the token is wrong");
        server.abort();
    }
}
