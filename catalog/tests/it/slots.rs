//! The router and the shards agree on every key's slot.

use sluice_router::Key;

use crate::setup::Fleet;

#[tokio::test]
async fn the_routers_slot_is_the_shards_slot() {
    let fleet = Fleet::with_shards(1).await;
    let client = fleet.connect("epfo_00").await;

    let mut numbers: Vec<i64> = (-2_000..20_000).collect();
    numbers.extend((0..63).flat_map(|bit| [1i64 << bit, -(1i64 << bit), (1i64 << bit) - 1]));
    numbers.extend([i64::MAX, i64::MIN]);
    let rows = client.query("SELECT n, sluice.slot(n) FROM unnest($1::bigint[]) AS n", &[&numbers]).await.unwrap();
    assert_eq!(rows.len(), numbers.len());
    for row in &rows {
        let (number, slot): (i64, i32) = (row.get(0), row.get(1));
        assert_eq!(i32::from(Key::Int(number).slot()), slot, "{number}");
    }

    let texts: Vec<String> =
        (0..3_000).map(|n| "é7x-".chars().cycle().take(n % 50).collect::<String>() + &n.to_string()).collect();
    let rows = client.query("SELECT t, sluice.slot(t) FROM unnest($1::text[]) AS t", &[&texts]).await.unwrap();
    for row in &rows {
        let (text, slot): (&str, i32) = (row.get(0), row.get(1));
        assert_eq!(i32::from(Key::Text(text.as_bytes()).slot()), slot, "{text:?}");
    }

    let uuids = "SELECT replace(u::text, '-', ''), sluice.slot(u) FROM (SELECT gen_random_uuid() AS u FROM generate_series(1, 3000)) AS t";
    for row in &client.query(uuids, &[]).await.unwrap() {
        let (digits, slot): (&str, i32) = (row.get(0), row.get(1));
        let bytes = u128::from_str_radix(digits, 16).unwrap().to_be_bytes();
        assert_eq!(i32::from(Key::Uuid(bytes).slot()), slot, "{digits}");
    }
}
