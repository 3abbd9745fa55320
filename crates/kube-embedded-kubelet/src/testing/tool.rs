//! The program that the kubelet's tests run in containers. They compile it into one static file.

use std::{
    env, fs,
    io::{IsTerminal, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    process::exit,
    sync::atomic::{AtomicBool, Ordering},
    thread::{park, sleep},
    time::Duration,
};

static TERMINATED: AtomicBool = AtomicBool::new(false);
static UNREADY: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn ioctl(file: i32, request: u64, ...) -> i32;
    fn syscall(number: i64, ...) -> i64;
    fn ptrace(request: i64, pid: i32, address: usize, data: usize) -> i64;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn kill(pid: i32, signal: i32) -> i32;
    fn unshare(flags: i32) -> i32;
    fn fork() -> i32;
    fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn sendto(file: i32, bytes: *const u8, length: usize, flags: i32, to: *const u8, size: u32) -> isize;
}

extern "C" fn on_term(_: i32) {
    TERMINATED.store(true, Ordering::SeqCst);
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    run(&args);
}

fn run(args: &[&str]) {
    match *args {
        ["exit", code] => exit(code.parse().unwrap()),
        ["print", ref lines @ ..] => lines.iter().for_each(|l| println!("{l}")),
        ["env"] => env::vars().for_each(|(k, v)| println!("{k}={v}")),
        ["cat", path] => print!("{}", fs::read_to_string(path).unwrap()),
        ["write", path, text] => fs::write(path, text).unwrap(),
        ["list", path] => {
            let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            println!("{}", names.join(" "));
        }
        ["exists", path] => exit(i32::from(!fs::exists(path).unwrap())),
        ["about"] => {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let uid = status.lines().find(|l| l.starts_with("Uid:")).unwrap();
            println!("pid {} {} cwd {}", std::process::id(), uid.replace('\t', " "), env::current_dir().unwrap().display());
        }
        ["rights"] => {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let fields = ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];
            let lines = status.lines().filter(|l| l.split(':').next().is_some_and(|name| fields.contains(&name)));
            lines.for_each(|l| println!("{}", l.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        // What a program inherits besides rights.
        ["inherited"] => {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let fields = ["Umask", "SigBlk", "SigIgn"];
            let lines = status.lines().filter(|l| l.split(':').next().is_some_and(|name| fields.contains(&name)));
            lines.for_each(|l| println!("{}", l.split_whitespace().collect::<Vec<_>>().join(" ")));
            // The last one is that of this listing.
            let mut open: Vec<i32> = fs::read_dir("/proc/self/fd").unwrap().map(|e| e.unwrap().file_name().into_string().unwrap().parse().unwrap()).collect();
            open.sort();
            println!("descriptors {open:?}");
            println!("cwd {}", env::current_dir().unwrap().display());
            println!("variables {}", env::vars().map(|(name, _)| name).collect::<Vec<_>>().join(" "));
            let limits = fs::read_to_string("/proc/self/limits").unwrap();
            let files = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
            println!("{}", files.split_whitespace().collect::<Vec<_>>().join(" "));
            print!("oom_score_adj {}", fs::read_to_string("/proc/self/oom_score_adj").unwrap());
        }
        ["write-until-full", path] => {
            let mut file = fs::File::create(path).unwrap();
            let mut written = 0;
            let error = loop {
                match file.write(&[1; 1 << 16]) {
                    Ok(count) => written += count,
                    Err(error) => break error,
                }
                if written > 1 << 28 {
                    println!("no limit");
                    exit(1);
                }
            };
            println!("{} KiB, then errno {}", written >> 10, error.raw_os_error().unwrap());
        }
        ["create-until-full", folder] => {
            let full = (0..200_000).find_map(|n| fs::File::create(format!("{folder}/{n}")).err().map(|error| (n, error)));
            match full {
                Some((n, error)) => println!("{n} files, then errno {}", error.raw_os_error().unwrap()),
                None => println!("no limit"),
            }
        }
        // Numbers and strings are passed on as they are.
        ["syscall", number, ref arguments @ ..] => {
            let strings: Vec<_> = arguments.iter().map(|a| std::ffi::CString::new(*a).unwrap()).collect();
            let mut values = [0_i64; 6];
            for ((value, text), argument) in values.iter_mut().zip(&strings).zip(arguments) {
                *value = argument.parse().unwrap_or(text.as_ptr() as i64);
            }
            let [a, b, c, d, e, f] = values;
            let result = unsafe { syscall(number.parse().unwrap(), a, b, c, d, e, f) };
            match result {
                -1 => println!("errno {}", std::io::Error::last_os_error().raw_os_error().unwrap()),
                result => println!("result {result}"),
            }
        }
        // Runs the rest of the arguments with all capabilities of a user namespace of its own.
        ["nested", ref rest @ ..] => {
            let flags = 0x1000_0000 | 0x2_0000; // CLONE_NEWUSER, CLONE_NEWNS
            if unsafe { unshare(flags) } != 0 {
                println!("unshare: {}", std::io::Error::last_os_error());
                exit(1);
            }
            run(rest);
        }
        ["steal", until] => steal(until),
        ["stop", until] => {
            println!("ready");
            while !fs::exists(until).unwrap() {
                for pid in 2..200 {
                    unsafe { kill(pid, 19) };
                }
            }
        }
        ["reach-api"] => {
            let name = |name: &str| env::var(format!("KUBERNETES_SERVICE_{name}")).unwrap();
            TcpStream::connect(format!("{}:{}", name("HOST"), name("PORT"))).unwrap();
            println!("reached");
        }
        ["copy"] => {
            std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).unwrap();
        }
        ["both", out, err, code] => {
            print!("{out}");
            eprint!("{err}");
            exit(code.parse().unwrap());
        }
        ["window"] => {
            println!("ready");
            // Until the size is set: nothing else shows that it was.
            let mut size = [0_u16; 4];
            while size[0] == 0 {
                unsafe { ioctl(0, 0x5413, size.as_mut_ptr()) };
                sleep(Duration::from_millis(5));
            }
            let name = fs::read_link("/proc/self/fd/0").unwrap();
            println!("{} there {}", name.display(), name.exists());
            println!("terminal {} columns {} rows {}", std::io::stdin().is_terminal(), size[1], size[0]);
        }
        ["answer", address] => {
            let listener = TcpListener::bind(address).unwrap();
            println!("listening");
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut back = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut stream, &mut back);
                    let _ = back.write_all(b"goodbye");
                });
            }
        }
        ["fetch", address] => {
            let mut stream = TcpStream::connect(address).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            println!("{text}");
        }
        // Tells each client its address.
        ["tell", address] => {
            let listener = TcpListener::bind(address).unwrap();
            println!("listening");
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = write!(stream, "{}", stream.peer_addr().unwrap().ip());
            }
        }
        ["reach", address] => match TcpStream::connect(address) {
            Ok(mut stream) => {
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                println!("{text}");
            }
            Err(error) => println!("{}", error.kind()),
        },
        // Sends datagrams back, with the name of the pod before them.
        ["echo", address] => {
            let socket = UdpSocket::bind(address).unwrap();
            let (mut datagram, name) = ([0; 2048], env::var("POD_NAME").unwrap_or_default());
            println!("listening");
            while let Ok((length, from)) = socket.recv_from(&mut datagram) {
                let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
                let _ = socket.send_to(format!("{name} {text}").as_bytes(), from);
            }
        }
        // Asks again, since datagrams may be lost.
        ["ask", address, text] => {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut datagram = [0; 2048];
            let answer = (0..20).find_map(|_| {
                socket.send(text.as_bytes()).ok()?;
                socket.recv(&mut datagram).ok()
            });
            match answer {
                Some(length) => println!("{}", String::from_utf8_lossy(&datagram[..length])),
                None => println!("no answer"),
            }
        }
        // Tells the senders of datagrams.
        ["hear", address] => {
            let socket = UdpSocket::bind(address).unwrap();
            println!("listening");
            while let Ok((_, from)) = socket.recv_from(&mut [0; 2048]) {
                println!("from {}", from.ip());
            }
        }
        ["forge", from, to] => forge(from.parse().unwrap(), to.parse().unwrap()),
        ["resolve", name] => match (name, 0).to_socket_addrs() {
            Ok(found) => {
                let mut found: Vec<_> = found.map(|at| at.ip().to_string()).collect();
                found.sort();
                found.dedup();
                println!("{}", found.join(" "));
            }
            Err(error) => println!("{error}"),
        },
        ["wait"] => loop {
            park()
        },
        // Forks until that fails; the processes stay until this one, the first of its namespace, exits.
        ["fork-bomb"] => {
            let mut count = 0;
            let error = loop {
                match unsafe { fork() } {
                    -1 => break std::io::Error::last_os_error(),
                    0 => loop {
                        park()
                    },
                    _ => count += 1,
                }
            };
            println!("{count} processes, then errno {}", error.raw_os_error().unwrap());
            loop {
                park()
            }
        }
        ["ignore-term"] => {
            unsafe { signal(15, on_term as *const () as usize) };
            println!("started");
            loop {
                sleep(Duration::from_secs(1));
            }
        }
        ["on-term", text] => {
            unsafe { signal(15, on_term as *const () as usize) };
            println!("started");
            while !TERMINATED.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(5));
            }
            println!("{text}");
        }
        ["on-term", text, millis] => {
            unsafe { signal(15, on_term as *const () as usize) };
            println!("started");
            while !TERMINATED.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(5));
            }
            sleep(Duration::from_millis(millis.parse().unwrap()));
            println!("{text}");
        }
        ["fill", path, size] => {
            let path = std::path::Path::new(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![1; size.parse().unwrap()]).unwrap();
            loop {
                park()
            }
        }
        ["allocate", size] => {
            let memory = vec![1_u8; size.parse().unwrap()];
            println!("{}", std::hint::black_box(&memory).len());
            loop {
                park()
            }
        }
        // Exchanges a folder and a link for each other, as fast as it can.
        ["swap", path, to] => {
            let (folder, link) = (format!("{path}.folder"), format!("{path}.link"));
            std::os::unix::fs::symlink(to, &link).unwrap();
            fs::create_dir(&folder).unwrap();
            fs::write(format!("{}/swapping", std::path::Path::new(path).parent().unwrap().display()), "").unwrap();
            loop {
                for name in [&folder, &link] {
                    fs::rename(name, path).unwrap();
                    std::hint::black_box(fs::symlink_metadata(path)).unwrap();
                    fs::rename(path, name).unwrap();
                }
            }
        }
        ["serve", port] => {
            let ip = env::var("POD_IP").unwrap_or("0.0.0.0".into());
            let listener = TcpListener::bind(format!("{ip}:{port}")).unwrap();
            println!("listening");
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 4096];
                let n = stream.read(&mut buffer).unwrap_or(0);
                let line = String::from_utf8_lossy(&buffer[..n]).lines().next().unwrap_or("").to_owned();
                let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
                println!("{line}");
                if path == "/crash" {
                    exit(3);
                }
                let sick = fs::exists("/tmp-sick").unwrap_or(false) || path == "/sick";
                let status = if sick { "500 Internal Server Error" } else { "200 OK" };
                let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi");
            }
        }
        ["name", port] => name(port, false),
        ["name", port, "unready"] => name(port, true),
        _ => {
            eprintln!("unknown command: {args:?}");
            exit(2);
        }
    }
}

/// Sends a datagram that claims to come from another address, which takes CAP_NET_RAW.
fn forge(from: Ipv4Addr, to: SocketAddrV4) {
    let port = to.port().to_be_bytes();
    let ip = [0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
    let udp = [&[0x11, 0x11][..], &port, &[0, 9, 0, 0, b'x']].concat();
    let packet = [&ip[..], &from.octets(), &to.ip().octets(), &udp].concat();
    let family = 2_u16.to_ne_bytes();
    let address = [&family[..], &port, &to.ip().octets(), &[0; 8]].concat();
    let sent = unsafe {
        // AF_INET, SOCK_RAW, IPPROTO_RAW: the header is the sender's.
        let file = socket(2, 3, 255);
        sendto(file, packet.as_ptr(), packet.len(), 0, address.as_ptr(), 16)
    };
    println!("{}", if sent == 29 { "sent".to_owned() } else { std::io::Error::last_os_error().to_string() });
}

/// Serves HTTP and responds with the name of the pod, any number of times per connection.
fn name(port: &str, unready: bool) {
    let ip = env::var("POD_IP").unwrap_or("0.0.0.0".into());
    let listener = TcpListener::bind(format!("{ip}:{port}")).unwrap();
    UNREADY.store(unready, Ordering::SeqCst);
    println!("listening");
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        std::thread::spawn(move || while respond(&stream).is_some() {});
    }
}

/// Responds once; `None` if no other response can follow.
fn respond(mut stream: &TcpStream) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // What comes after the head stays unread.
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let path = head.split(' ').nth(1)?;
    let close = head.contains("connection: close");
    let name = env::var("POD_NAME").unwrap_or_default();
    let (status, body) = match path {
        "/ready" if UNREADY.load(Ordering::SeqCst) => ("503 Busy", name),
        "/unready" => {
            UNREADY.store(true, Ordering::SeqCst);
            ("200 OK", name)
        }
        "/crash" => exit(3),
        "/big" => ("200 OK", "0123456789abcdef".repeat(8 << 16)),
        _ => ("200 OK", name),
    };
    let length = if path == "/half" { 2 * body.len() } else { body.len() };
    let connection = if close { "close" } else { "keep-alive" };
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: {connection}\r\n\r\n");
    stream.write_all((head + &body).as_bytes()).ok()?;
    if path == "/half" {
        loop {
            park()
        }
    }
    (!close).then_some(())
}

/// Tries to get at the memory of whatever enters this container, before it is the program that it
/// becomes, until a file exists.
fn steal(until: &str) {
    const FOREIGN: &str = "kube_embedded";
    let (mut tries, mut refused, mut stolen) = (0_u64, 0_u64, Vec::new());
    println!("ready");
    let maps = |pid| fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains(FOREIGN));
    while !fs::exists(until).unwrap() {
        // The last pid that was given out in this namespace.
        let last: i32 = fs::read_to_string("/proc/loadavg").unwrap().split_whitespace().last().unwrap().parse().unwrap();
        for pid in [last, last + 1] {
            tries += 1;
            if maps(pid) {
                stolen.push(format!("maps of {pid}"));
            }
            // PTRACE_SEIZE, _INTERRUPT, _DETACH: it runs on afterwards.
            if unsafe { ptrace(0x4206, pid, 0, 0) } == 0 {
                if maps(pid) {
                    stolen.push(format!("{pid} by ptrace"));
                }
                unsafe { ptrace(0x4207, pid, 0, 0) };
                unsafe { waitpid(pid, std::ptr::null_mut(), 0x4000_0000) };
                unsafe { ptrace(17, pid, 0, 0) };
            } else if std::io::Error::last_os_error().raw_os_error() == Some(1) && pid > 1 {
                refused += 1;
            }
        }
    }
    println!("was refused {refused} of {tries} tries, stole {stolen:?}");
}
