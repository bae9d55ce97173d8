use proptest::prelude::*;

use super::*;

const LIMIT: usize = 1 << 20;

/// Everything that `link` says of `bytes`, which arrive in pieces of `step`.
fn hear(link: &mut Link, bytes: &[u8], step: usize) -> Result<Vec<Incoming>, ZmtpError> {
    let mut heard = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        link.receive(piece);
        while let Some(incoming) = link.poll()? {
            heard.push(incoming);
        }
    }
    Ok(heard)
}

fn connect(left: &mut Link, right: &mut Link) {
    let (from_left, from_right) = (std::mem::take(left.output()), std::mem::take(right.output()));
    assert_eq!(hear(right, &from_left, 7), Ok(vec![Incoming::Ready]));
    assert_eq!(hear(left, &from_right, 1), Ok(vec![Incoming::Ready]));
}

#[test]
fn a_subscriber_gets_what_a_publisher_sends() {
    let mut publisher = Link::new(SocketKind::Pub, LIMIT);
    let mut subscriber = Link::new(SocketKind::Sub, LIMIT);
    connect(&mut publisher, &mut subscriber);
    subscriber.subscribe(b"kv@");
    let wish = std::mem::take(subscriber.output());
    assert_eq!(hear(&mut publisher, &wish, 2), Ok(vec![Incoming::Subscribe(b"kv@".to_vec())]));
    let long = vec![9; 70_000];
    publisher.send(&[b"kv@a", &[], &long]);
    publisher.send(&[b"kv@b"]);
    let sent = std::mem::take(publisher.output());
    for step in [1, 3, 65_536, sent.len()] {
        let mut subscriber = Link::new(SocketKind::Sub, LIMIT);
        let mut bytes = Link::new(SocketKind::Pub, LIMIT).output().clone();
        bytes.extend_from_slice(&sent);
        let heard = hear(&mut subscriber, &bytes, step).unwrap();
        let messages = [vec![b"kv@a".to_vec(), vec![], long.clone()], vec![b"kv@b".to_vec()]];
        assert_eq!(heard[1..], messages.map(Incoming::Message), "in pieces of {step}");
    }
}

#[test]
fn subscriptions_of_version_3_1_are_commands() {
    let (mut publisher, mut subscriber) =
        (Link::new(SocketKind::Pub, LIMIT), Link::new(SocketKind::Sub, LIMIT));
    connect(&mut publisher, &mut subscriber);
    let mut bytes = Vec::new();
    frame(&mut bytes, COMMAND, b"\x09SUBSCRIBEx");
    frame(&mut bytes, COMMAND, b"\x06CANCELx");
    frame(&mut bytes, COMMAND, b"\x04PING\x00\x01hello");
    let heard = hear(&mut publisher, &bytes, 4);
    assert_eq!(heard, Ok(vec![Incoming::Subscribe(b"x".to_vec()), Incoming::Cancel(b"x".to_vec())]));
    assert_eq!(publisher.output().as_slice(), b"\x04\x0a\x04PONGhello", "a ping is answered");
}

#[test]
fn what_cannot_be_understood_is_named() {
    let link = || Link::new(SocketKind::Sub, 1000);
    assert_eq!(hear(&mut link(), b"HTTP/1.1 400 Bad Request\r\n", 5), Err(ZmtpError::NotZmtp));
    let mut old = Link::new(SocketKind::Pub, LIMIT).output().clone();
    old[10] = 1;
    assert_eq!(hear(&mut link(), &old, 64), Err(ZmtpError::NotZmtp));
    let mut plain = Link::new(SocketKind::Pub, LIMIT).output().clone();
    plain[12..17].copy_from_slice(b"PLAIN");
    assert_eq!(hear(&mut link(), &plain, 64), Err(ZmtpError::Mechanism("PLAIN".into())));
    let router = Link::new(SocketKind::Router, LIMIT).output().clone();
    assert_eq!(hear(&mut link(), &router, 64), Err(ZmtpError::Kind("ROUTER".into())));
    let mut large = Link::new(SocketKind::Pub, LIMIT).output().clone();
    message(&mut large, &[&[0; 600], &[0; 600]]);
    assert_eq!(hear(&mut link(), &large, 64), Err(ZmtpError::TooLarge(1000)));
    let greeting = Link::new(SocketKind::Pub, LIMIT).output().clone();
    let mut many = greeting.clone();
    message(&mut many, &[&b""[..]; MOST_FRAMES]);
    assert_eq!(hear(&mut link(), &many, 64).map(|heard| heard.len()), Ok(2));
    let mut too_many = greeting;
    message(&mut too_many, &[&b""[..]; MOST_FRAMES + 1]);
    let refused = Err(ZmtpError::Frame("one more than a message may have"));
    assert_eq!(hear(&mut link(), &too_many, 64), refused, "it would be counted again with each");
}

proptest! {
    #[test]
    fn any_bytes_are_survived(noise in proptest::collection::vec(any::<u8>(), 0..400), greeted in any::<bool>()) {
        let mut bytes = if greeted { Link::new(SocketKind::Pub, LIMIT).output().clone() } else { Vec::new() };
        bytes.extend(noise);
        let _ = hear(&mut Link::new(SocketKind::Sub, 4096), &bytes, 3);
        let _ = hear(&mut Link::new(SocketKind::Pub, 4096), &bytes, bytes.len());
    }

    #[test]
    fn messages_survive_any_cut(
        messages in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..4), 0..6),
        step in 1..500_usize,
    ) {
        let mut bytes = Link::new(SocketKind::Router, LIMIT).output().clone();
        for frames in &messages {
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            message(&mut bytes, &frames);
        }
        let heard = hear(&mut Link::new(SocketKind::Dealer, LIMIT), &bytes, step).unwrap();
        prop_assert_eq!(&heard[1..], messages.into_iter().map(Incoming::Message).collect::<Vec<_>>());
    }
}
