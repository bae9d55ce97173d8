use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use rustls::server::WebPkiClientVerifier;

use super::*;

/// A self-signed certificate for a host, and its key, in files.
fn identity(folder: &Path, host: &str) -> Identity {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    write(folder, host, &made.cert.pem(), &made.signing_key.serialize_pem())
}

fn write(folder: &Path, name: &str, certificates: &str, key: &str) -> Identity {
    let identity = Identity {
        certificates: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    };
    fs::write(&identity.certificates, certificates).unwrap();
    fs::write(&identity.key, key).unwrap();
    identity
}

/// What a client of `settings` gets from a server that calls itself `host` and says hello.
fn hello(server: &Identity, host: &str, settings: &ClientSettings) -> io::Result<String> {
    hello_from(server.server().unwrap(), host, settings)
}

fn hello_from(config: Arc<ServerConfig>, host: &str, settings: &ClientSettings) -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
        // A client that does not trust us leaves in the middle.
        let _ = stream.write_all(b"hello");
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    let connection = ClientConnection::new(settings.load().unwrap(), server_name(host).unwrap()).unwrap();
    let mut text = String::new();
    let got = StreamOwned::new(connection, TcpStream::connect(address)?).read_to_string(&mut text);
    serving.join().unwrap();
    got.map(|_| text)
}

#[test]
fn a_server_is_trusted_if_somebody_vouches_for_it_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = identity(folder.path(), "localhost");
    let trusting =
        ClientSettings { authorities: Some(server.certificates.clone()), ..ClientSettings::default() };
    assert_eq!(hello(&server, "localhost", &trusting).unwrap(), "hello");
    let other = hello(&server, "elsewhere", &trusting).unwrap_err().to_string();
    assert!(other.contains("not valid for name"), "{other}");
    let stranger = identity(folder.path(), "stranger");
    let distrusting = ClientSettings { authorities: Some(stranger.certificates), ..trusting };
    let unknown = hello(&server, "localhost", &distrusting).unwrap_err();
    let said = [explain(&unknown), explain_with(&unknown, "with --authorities")];
    assert!(said.iter().all(|text| text.starts_with("nobody trusted vouches for")), "{said:?}");
    assert!(said[0].ends_with(" in SSL_CERT_FILE") && said[1].ends_with(" with --authorities"), "{said:?}");
    let insecure = ClientSettings { insecure: true, ..ClientSettings::default() };
    assert_eq!(hello(&server, "elsewhere", &insecure).unwrap(), "hello");
}

#[test]
fn a_server_that_asks_who_we_are_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let [server, client] = ["localhost", "client"].map(|host| identity(folder.path(), host));
    let mut roots = RootCertStore::empty();
    roots.add(certificates(&client.certificates).unwrap().remove(0)).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let (own, key) = server.read().unwrap();
    let config =
        Arc::new(builder.unwrap().with_client_cert_verifier(verifier).with_single_cert(own, key).unwrap());
    let unknown =
        ClientSettings { authorities: Some(server.certificates.clone()), ..ClientSettings::default() };
    assert!(hello_from(Arc::clone(&config), "localhost", &unknown).is_err());
    let known = ClientSettings { identity: Some(client), ..unknown };
    assert_eq!(hello_from(config, "localhost", &known).unwrap(), "hello");
}

#[test]
fn an_authority_is_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = parameters.self_signed(&key).unwrap();
    let server = write(folder.path(), "authority", &authority.pem(), &key.serialize_pem());
    let trusting =
        ClientSettings { authorities: Some(server.certificates.clone()), ..ClientSettings::default() };
    let said = explain(&hello(&server, "localhost", &trusting).unwrap_err());
    assert!(said.contains("CA:TRUE"), "{said}");
}

#[test]
fn files_that_are_something_else_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = identity(folder.path(), "localhost");
    let error = |settings: ClientSettings| settings.load().unwrap_err().to_string();
    let missing = folder.path().join("missing.pem");
    let said = error(ClientSettings { authorities: Some(missing.clone()), ..ClientSettings::default() });
    assert!(said.starts_with(&missing.display().to_string()), "{said}");
    let said = error(ClientSettings { authorities: Some(server.key.clone()), ..ClientSettings::default() });
    assert!(said.ends_with("no certificate in it"), "{said}");
    let swapped = Identity { certificates: server.certificates.clone(), key: server.certificates };
    let said = error(ClientSettings { insecure: true, identity: Some(swapped), ..ClientSettings::default() });
    assert!(said.contains("localhost.pem"), "{said}");
    let strange =
        Identity { key: identity(folder.path(), "stranger").key, ..identity(folder.path(), "localhost") };
    assert!(strange.server().is_err(), "a key of another certificate");
}

/// Made by openssl without an -extfile, and its key.
const OLD_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBHzCBxQIUZDB9hCad3xvCsQOPpUkOlMzsLqcwCgYIKoZIzj0EAwIwETEPMA0G
A1UEAwwGY2xpZW50MCAXDTI2MTEyMzEzMDAyOVoYDzIxMjYxMDMwMTMwMDI5WjAR
MQ8wDQYDVQQDDAZjbGllbnQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATrnJus
A3lCLKPe2cEDOun8S1LGWpuRYTxMANnYlBT+r5E2vgMm2KWI4uxnf7DEG4svdAGE
xpmUrgbNVHU0o8CDMAoGCCqGSM49BAMCA0kAMEYCIQDQu6s/GZu8NXvOILwYjBHI
6TRmGXDcyuwviJCz3BQkCAIhAJEB1FBGr7ZchxMupSDXvRQYWRWmxJPCG0O5Uk8E
NmTB
-----END CERTIFICATE-----
";
const OLD_KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgaImuWoJykzE6JumV
OiRLhJJJvd3AHmqHyqSCdLbONxahRANCAATrnJusA3lCLKPe2cEDOun8S1LGWpuR
YTxMANnYlBT+r5E2vgMm2KWI4uxnf7DEG4svdAGExpmUrgbNVHU0o8CD
-----END PRIVATE KEY-----
";

#[test]
fn a_certificate_and_a_key_that_cannot_be_shown_are_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let good = identity(folder.path(), "good");
    assert!(good.check().is_ok());
    let encrypted = folder.path().join("encrypted.key");
    fs::write(&encrypted, OLD_KEY.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")).unwrap();
    let missing = folder.path().join("missing.pem");
    let other = identity(folder.path(), "other").key;
    let with_key = |key: &Path| Identity { key: key.to_owned(), ..good.clone() };
    for (identity, file, part) in [
        (
            write(folder.path(), "old", OLD_CERTIFICATE, OLD_KEY),
            "old.pem",
            "X.509 version 1; make one of version 3",
        ),
        (with_key(&encrypted), "encrypted.key", "the key is encrypted; write it without a password"),
        (with_key(&good.certificates), "good.pem", "no private key in it"),
        (with_key(&missing), "missing.pem", "cannot be read: No such file"),
        (with_key(&other), "other.key", "the key of another certificate than the first one in"),
    ] {
        let TlsError::File { path, what } = identity.check().unwrap_err() else {
            panic!("no file for {file}")
        };
        assert_eq!(path.file_name().unwrap(), file, "{what}");
        assert!(what.contains(part), "{what}");
    }
}

#[test]
fn hosts_are_names_or_addresses() {
    for host in ["localhost", "127.0.0.1", "::1", "api.example.com"] {
        assert!(server_name(host).is_ok(), "{host}");
    }
    assert!(server_name("a b").unwrap_err().to_string().contains("a b"));
}
