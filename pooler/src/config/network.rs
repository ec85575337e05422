//! Addresses with masks: of HBA rules, and of settings.

use std::net::IpAddr;

use super::values::Value;

/// A comma-separated list of networks. An address without a mask is a network of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks {
    text: String,
    networks: Vec<Network>,
}

impl Networks {
    /// Whether an address is in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }
}

impl Value for Networks {
    fn parse(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let networks = items.map(|item| {
            let single = item.parse().ok().map(Network::single);
            let network =
                single.or_else(|| Network::parse_cidr(item).filter(|(_, stray)| !stray).map(|(network, _)| network));
            network.ok_or_else(|| {
                format!("\"{item}\" is no network such as 10.0.0.0/8 or ::1, without bits beyond its mask")
            })
        });
        Ok(Self { text: text.to_owned(), networks: networks.collect::<Result<_, _>>()? })
    }

    fn show(&self) -> Option<String> {
        Some(self.text.clone())
    }
}

/// A range of addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    is_ipv6: bool,
    /// As a number, the bits outside the mask cleared.
    address: u128,
    mask: u128,
}

/// A network, and whether its address had bits outside the mask.
type Parsed = (Network, bool);

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv6() == self.is_ipv6 && number(address) & self.mask == self.address
    }

    /// `ADDRESS/BITS`.
    pub fn parse_cidr(text: &str) -> Option<Parsed> {
        let (address, bits) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv6() { 128 } else { 32 };
        let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = bits.parse::<u32>().ok().filter(|&bits| digits && bits <= width)?;
        // A shift by the whole width is not defined.
        let host_bits = 1_u128.checked_shl(width - bits).map_or(u128::MAX, |bit| bit - 1);
        let whole = if width == 128 { u128::MAX } else { u128::from(u32::MAX) };
        Some(Self::new(address, whole & !host_bits))
    }

    /// An address and a mask of the same family.
    pub fn parse_masked(address: &str, mask: &str) -> Option<Parsed> {
        let (address, mask): (IpAddr, IpAddr) = (address.parse().ok()?, mask.parse().ok()?);
        (address.is_ipv6() == mask.is_ipv6()).then(|| Self::new(address, number(mask)))
    }

    fn single(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self::new(address, u128::MAX).0
    }

    fn new(address: IpAddr, mask: u128) -> Parsed {
        let bits = number(address);
        (Self { is_ipv6: address.is_ipv6(), address: bits & mask, mask }, bits & !mask != 0)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: Option<Parsed>, address: &str) -> bool {
        network.unwrap().0.contains(address.parse().unwrap())
    }

    #[test]
    fn ranges_end_where_their_mask_says() {
        for (cidr, inside, outside) in [
            (
                "10.1.0.0/16",
                &["10.1.0.0", "10.1.255.255", "::ffff:10.1.2.3"][..],
                &["10.2.0.0", "::a01:0", "10.0.255.255"],
            ),
            ("10.1.2.3/32", &["10.1.2.3"], &["10.1.2.2", "10.1.2.4", "::1"]),
            ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::", "::1", "fe80::1"]),
            ("::/0", &["::", "fe80::1"], &["0.0.0.0", "127.0.0.1", "::ffff:1.2.3.4"]),
            ("2001:db8::/33", &["2001:db8::1", "2001:db8:7fff::"], &["2001:db8:8000::", "2001:db9::", "1.2.3.4"]),
            ("::1/128", &["::1"], &["::2", "::", "127.0.0.1"]),
        ] {
            for address in inside {
                assert!(contains(Network::parse_cidr(cidr), address), "{address} in {cidr}");
            }
            for address in outside {
                assert!(!contains(Network::parse_cidr(cidr), address), "{address} not in {cidr}");
            }
        }
    }

    #[test]
    fn masks_may_stand_alone() {
        assert_eq!(Network::parse_masked("10.1.0.0", "255.255.0.0"), Network::parse_cidr("10.1.0.0/16"));
        assert_eq!(Network::parse_masked("::", "ffff::"), Network::parse_cidr("::/16"));
        assert_eq!(Network::parse_masked("10.1.0.0", "ffff::"), None);
    }

    #[test]
    fn bits_outside_the_mask_are_noticed_and_cleared() {
        let (network, stray) = Network::parse_cidr("10.1.2.3/16").unwrap();
        assert!(stray && network.contains("10.1.9.9".parse().unwrap()));
        assert!(!Network::parse_cidr("10.1.0.0/16").unwrap().1);
    }

    #[test]
    fn lists_of_networks() {
        let networks = Networks::parse("10.0.0.0/8, ::1,192.0.2.7").unwrap();
        for (address, inside) in
            [("10.9.9.9", true), ("::1", true), ("192.0.2.7", true), ("192.0.2.8", false), ("::ffff:192.0.2.7", true)]
        {
            assert_eq!(networks.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert!(!Networks::parse("").unwrap().contains("::1".parse().unwrap()));
        for bad in ["10.1.2.3/8", "lb.example.com", "10.0.0.0/8 ::1"] {
            assert!(Networks::parse(bad).unwrap_err().contains("is no network"), "{bad}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in
            ["10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0/8", "::/129", "h/8", "/8"]
        {
            assert_eq!(Network::parse_cidr(bad), None, "{bad}");
        }
    }
}
