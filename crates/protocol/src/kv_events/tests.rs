use proptest::prelude::*;

use super::*;

fn stored(hashes: &[u64], parent: Option<u64>, tokens: &[u32], block_tokens: u32) -> CacheEvent {
    CacheEvent::Stored(BlocksStored {
        hashes: hashes.into(),
        parent,
        tokens: tokens.into(),
        block_tokens,
        medium: Some("GPU".into()),
        ..BlocksStored::default()
    })
}

fn removed(hashes: &[u64]) -> CacheEvent {
    CacheEvent::Removed(BlocksRemoved {
        hashes: hashes.into(),
        medium: Some("GPU".into()),
        ..BlocksRemoved::default()
    })
}

/// Bytes from hexadecimal text.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|digit| Some(digit.to_digit(16)? as u8)).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn every_format_is_read_as_it_was_written() {
    let batch = EventBatch {
        timestamp_s: 1.5,
        events: vec![
            stored(&[u64::MAX, 7], Some(3), &[1, 70_000, 3, 4], 2),
            removed(&[7, 0]),
            CacheEvent::Cleared,
        ],
        data_parallel_rank: Some(1),
        unknown: 0,
    };
    for format in EventFormat::ALL {
        assert_eq!(EventBatch::decode(&batch.encode(format)), Ok(batch.clone()), "{format:?}");
    }
}

#[test]
fn hashes_are_as_each_engine_sends_them() {
    let batch = EventBatch { events: vec![removed(&[u64::MAX - 1])], ..EventBatch::default() };
    // A list of one: an unsigned integer of 64 bits, a binary of 32 bytes, or a small negative integer.
    for (format, list) in [
        (EventFormat::Vllm, &b"\x91\xcf\xff"[..]),
        (EventFormat::VllmDigests, b"\x91\xc4\x20\0"),
        (EventFormat::VllmArrays, b"\x91\xcf\xff"),
        (EventFormat::Sglang, b"\x91\xfe"),
    ] {
        let payload = batch.encode(format);
        assert!(payload.windows(list.len()).any(|bytes| bytes == list), "{format:?}: {payload:x?}");
    }
}

/// What `msgspec` makes of vLLM's and SGLang's structs of several versions; `scripts/kv-events-interop.py` checks
/// the same against the running program.
#[test]
fn the_forms_of_all_versions_are_read() {
    let wanted = stored(&[10], None, &[1, 2], 2);
    let forms = [
        (
            "arrays, integer hashes, short tail",
            "93 cb3ff0000000000000 91 96 ab426c6f636b53746f726564 910a c0 920102 02 c0 c0",
        ),
        (
            "arrays without medium",
            "92 cb3ff0000000000000 91 96 ab426c6f636b53746f726564 910a c0 920102 02 c0",
        ),
        (
            "an event that is a map, defaults left out",
            "92 cb3ff0000000000000 91 85 a474797065 ab426c6f636b53746f726564 ac626c6f636b5f686173686573 910a \
             b1706172656e745f626c6f636b5f68617368 c0 a9746f6b656e5f696473 920102 aa626c6f636b5f73697a65 02",
        ),
        (
            "a batch that is a map, the type last, an unknown member",
            "82 a27473 cb3ff0000000000000 a66576656e7473 91 85 ac626c6f636b5f686173686573 910a \
             a9746f6b656e5f696473 920102 aa626c6f636b5f73697a65 02 a178 8101c2 a474797065 ab426c6f636b53746f726564",
        ),
    ];
    for (form, bytes) in forms {
        let payload = hex(bytes);
        let batch = EventBatch::decode(&payload);
        // A tail that is too long for its array head is a fault of this test.
        let batch = batch.unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(batch.timestamp_s, 1.0, "{form}");
        let CacheEvent::Stored(found) = &batch.events[0] else { panic!("{form}: {batch:?}") };
        let CacheEvent::Stored(wanted) = &wanted else { unreachable!() };
        assert_eq!((&found.hashes, &found.tokens), (&wanted.hashes, &wanted.tokens), "{form}");
        assert_eq!((found.parent, found.block_tokens, found.keyed), (None, 2, false), "{form}");
    }
}

#[test]
fn what_more_than_tokens_decides_about_is_marked() {
    let read = |stored: &serde_json::Value| {
        let payload = rmp_serde::to_vec(&serde_json::json!([0.5, [stored]])).unwrap();
        let batch = EventBatch::decode(&payload).unwrap();
        let [CacheEvent::Stored(stored)] = &batch.events[..] else { panic!("{batch:?}") };
        (stored.keyed, stored.lora_name.clone())
    };
    let array = |tail: serde_json::Value| {
        let mut event = serde_json::json!(["BlockStored", [1], null, [5, 6], 2]);
        event.as_array_mut().unwrap().extend(tail.as_array().unwrap().iter().cloned());
        read(&event)
    };
    let name = Some("sql".to_owned());
    assert_eq!(array(serde_json::json!([null, "GPU", null, [null]])), (false, None));
    assert_eq!(array(serde_json::json!([3, "GPU", "sql", [["sql"]]])), (false, name.clone()));
    assert_eq!(array(serde_json::json!([3, "GPU", "sql", [["sql", "salt"]]])), (true, name));
    assert_eq!(array(serde_json::json!([null, "GPU", null, [[["image", 3]]]])), (true, None));
    assert_eq!(array(serde_json::json!([3, "GPU"])), (true, None), "an adapter without a name");
    assert_eq!(
        array(serde_json::json!([null, "GPU", {"cache_salt": "x"}])),
        (true, None),
        "SGLang's metadata"
    );
    let salted = serde_json::json!({"type": "BlockStored", "block_hashes": [1], "parent_block_hash": null,
        "token_ids": [5, 6], "block_size": 2, "lora_id": null, "cache_salt": "x"});
    assert_eq!(read(&salted), (true, None));
}

#[test]
fn unknown_events_are_counted_and_the_others_read() {
    let events =
        serde_json::json!([2, [["BlockTransferred", 1, 2], ["AllBlocksCleared"], {"type": "New"}], 0, "x"]);
    let batch = EventBatch::decode(&rmp_serde::to_vec(&events).unwrap()).unwrap();
    assert_eq!((batch.events, batch.unknown), (vec![CacheEvent::Cleared], 2));
    assert_eq!(batch.data_parallel_rank, Some(0));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = EventBatch::decode(&payload);
    }

    #[test]
    fn a_damaged_batch_is_survived(place in 0..200_usize, byte in any::<u8>(), length in 0..400_usize) {
        let events = vec![stored(&[1, 2], Some(9), &[1, 2, 3, 4], 2), removed(&[1])];
        let batch = EventBatch { events, ..EventBatch::default() };
        for format in EventFormat::ALL {
            let mut payload = batch.encode(format);
            let place = place % payload.len();
            payload[place] = byte;
            payload.truncate(length);
            let _ = EventBatch::decode(&payload);
        }
    }
}
