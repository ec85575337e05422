//! The sample data: a provident fund of a few hundred establishments, most of them small, a few of them large.
//!
//! Everything is computed from the scale, an organization's number and a member's number, so the same start gives the
//! same rows on every machine, and every shard's rows can be made by themselves. No clock, no I/O.

use std::fmt::Write as _;

const ORGANIZATIONS: f64 = 400.0;
const MEMBERS: f64 = 20_000.0;
const CLAIMS: f64 = 3_000.0;
/// Months of 2025 for which every member has a contribution: January to October.
pub const MONTHS: u64 = 10;

/// The codes of the table `states` (see schema.sql).
const STATES: [&str; 36] = [
    "AP", "AR", "AS", "BR", "CG", "GA", "GJ", "HR", "HP", "JH", "KA", "KL", "MP", "MH", "MN", "ML", "MZ", "NL", "OD",
    "PB", "RJ", "SK", "TN", "TS", "TR", "UP", "UK", "WB", "AN", "CH", "DH", "DL", "JK", "LA", "LD", "PY",
];

/// Pension contributions are paid on wages up to this (in paise): 15,000 rupees.
const PENSION_WAGE_CEILING: u64 = 15_000 * 100;

/// An establishment and how much belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    pub id: u64,
    pub members: u64,
    pub claims: u64,
}

/// The organizations of a scale, in order of their numbers.
pub fn organizations(scale: f64) -> Vec<Organization> {
    let scaled = |figure: f64| (figure * scale).round() as u64;
    let count = scaled(ORGANIZATIONS).max(4);
    // Zipf's law: the n-th largest has 1/n of the largest's members. Everybody has one at least.
    let ranks = shuffled(count);
    let weights: Vec<u64> = ranks.iter().map(|rank| 1_000_000_000 / rank).collect();
    let members: Vec<u64> = apportion(scaled(MEMBERS).saturating_sub(count), &weights).map(|extra| extra + 1).collect();
    let claims = apportion(scaled(CLAIMS), &members);
    let rows = (1..).zip(&members).zip(claims);
    rows.map(|((id, &members), claims)| Organization { id, members, claims }).collect()
}

/// A member of an organization. Amounts are in paise.
#[derive(Debug, Clone, Copy)]
struct Member {
    number: u64,
    wages: u64,
    joined_year: u64,
    joined_month: u64,
}

/// The tables in the order of their foreign keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Organizations,
    Members,
    Contributions,
    Claims,
}

impl Table {
    pub const ALL: [Self; 4] = [Self::Organizations, Self::Members, Self::Contributions, Self::Claims];

    pub fn name(self) -> &'static str {
        match self {
            Self::Organizations => "organizations",
            Self::Members => "members",
            Self::Contributions => "contributions",
            Self::Claims => "claims",
        }
    }

    /// The columns that [`rows`] gives.
    pub fn columns(self) -> &'static str {
        match self {
            Self::Organizations => "organization_id, establishment_code, name, state_code, covered_since",
            Self::Members => "organization_id, member_id, uan, joined_on, monthly_wages",
            Self::Contributions => {
                "organization_id, contribution_id, member_id, wage_month, wages, employee_share, employer_share, pension_share"
            }
            Self::Claims => "organization_id, claim_id, member_id, status, amount, filed_at, documents, details",
        }
    }
}

/// What was made, to be compared with what the shards hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub organizations: u64,
    pub members: u64,
    pub contributions: u64,
    pub claims: u64,
    /// Sum of the employees' shares, in paise.
    pub employee_share: u64,
    /// Sum of the claimed amounts, in paise.
    pub claimed: u64,
}

impl Totals {
    pub fn add(&mut self, other: &Self) {
        self.organizations += other.organizations;
        self.members += other.members;
        self.contributions += other.contributions;
        self.claims += other.claims;
        self.employee_share += other.employee_share;
        self.claimed += other.claimed;
    }

    pub fn rows(&self) -> u64 {
        self.organizations + self.members + self.contributions + self.claims
    }
}

/// Appends what belongs to an organization's `member`-th member (from 1) as lines for COPY, and counts it. The
/// organization's own row comes with its first member.
pub fn rows(table: Table, organization: &Organization, member: u64, out: &mut String, totals: &mut Totals) {
    match table {
        Table::Organizations if member == 1 => {
            organization_row(organization, out);
            totals.organizations += 1;
        }
        Table::Organizations => {}
        Table::Members => {
            member_row(organization, &Member::new(organization, member), out);
            totals.members += 1;
        }
        Table::Contributions => contribution_rows(organization, &Member::new(organization, member), out, totals),
        Table::Claims => claim_rows(organization, &Member::new(organization, member), out, totals),
    }
}

impl Member {
    fn new(organization: &Organization, number: u64) -> Self {
        let mut random = Random::new(organization.id, number);
        // The lower of two draws: small wages are common, large ones are not.
        let steps = random.below(520).min(random.below(520));
        Self {
            number,
            wages: (8_000 + steps * 100) * 100,
            joined_year: 2005 + random.below(20),
            joined_month: 1 + random.below(12),
        }
    }

    /// 12 % of the wages, in whole rupees.
    fn employee_share(&self) -> u64 {
        whole_rupees(self.wages * 12 / 100)
    }

    /// 8.33 % of the wages up to the ceiling, in whole rupees. The rest of the employer's 12 % goes to the provident fund.
    fn pension_share(&self) -> u64 {
        whole_rupees(self.wages.min(PENSION_WAGE_CEILING) * 833 / 10_000)
    }
}

// `fmt::Write` for String can't fail, so the rows below ignore its result.

fn organization_row(organization: &Organization, out: &mut String) {
    let id = organization.id;
    let mut random = Random::new(id, 0);
    let state = STATES[random.below(STATES.len() as u64) as usize];
    let (year, month, day) = (1990 + random.below(30), 1 + random.below(12), 1 + random.below(28));
    let _ = writeln!(out, "{id}\t{state}EST{id:07}000\tEstablishment {id}\t{state}\t{year}-{month:02}-{day:02}");
}

fn member_row(organization: &Organization, member: &Member, out: &mut String) {
    let (id, number) = (organization.id, member.number);
    let uan = 100_000_000_000 + id * 1_000_000 + number;
    let wages = Rupees(member.wages);
    let _ = writeln!(out, "{id}\t{number}\t{uan}\t{}-{:02}-01\t{wages}", member.joined_year, member.joined_month);
}

fn contribution_rows(organization: &Organization, member: &Member, out: &mut String, totals: &mut Totals) {
    let (id, number) = (organization.id, member.number);
    let (wages, employee, pension) = (Rupees(member.wages), member.employee_share(), member.pension_share());
    let (employee, employer, pension) = (Rupees(employee), Rupees(employee - pension), Rupees(pension));
    for month in 1..=MONTHS {
        let contribution = (number - 1) * MONTHS + month;
        let _ = writeln!(
            out,
            "{id}\t{contribution}\t{number}\t2025-{month:02}-01\t{wages}\t{employee}\t{employer}\t{pension}"
        );
    }
    totals.contributions += MONTHS;
    totals.employee_share += MONTHS * member.employee_share();
}

fn claim_rows(organization: &Organization, member: &Member, out: &mut String, totals: &mut Totals) {
    const STATUSES: [&str; 4] = ["filed", "under review", "settled", "rejected"];
    const REASONS: [&str; 4] = ["illness", "housing", "education", "retirement"];
    const DOCUMENTS: [&str; 3] =
        ["{\"form 31\"}", "{\"form 31\",\"bank passbook\"}", "{\"form 19\",\"form 10C\",\"cancelled cheque\"}"];
    let (id, number) = (organization.id, member.number);
    let mut random = Random::new(id, number ^ 0xC1A1_0000_0000);
    for _ in 0..share(organization.claims, number - 1, number, organization.members) {
        let amount = (1_000 + random.below(99) * 1_000) * 100;
        let uuid = random.uuid();
        let (status, reason) = (random.pick(&STATUSES), random.pick(&REASONS));
        let (month, day, documents) = (1 + random.below(10), 1 + random.below(28), random.pick(&DOCUMENTS));
        let online = random.below(2) == 0;
        let _ = writeln!(
            out,
            "{id}\t{uuid}\t{number}\t{status}\t{}\t2025-{month:02}-{day:02} 10:00:00+05:30\t{documents}\t\
             {{\"reason\": \"{reason}\", \"online\": {online}, \"service_years\": {}}}",
            Rupees(amount),
            2025 - member.joined_year,
        );
        totals.claims += 1;
        totals.claimed += amount;
    }
}

/// Paise, written as rupees.
struct Rupees(u64);

impl std::fmt::Display for Rupees {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// Paise, rounded to whole rupees.
fn whole_rupees(paise: u64) -> u64 {
    (paise + 50) / 100 * 100
}

/// What falls to the part from `from` to `to` of `whole` when `total` is spread evenly: parts that meet add up exactly.
fn share(total: u64, from: u64, to: u64, whole: u64) -> u64 {
    let upto = |part: u64| u128::from(total) * u128::from(part) / u128::from(whole);
    (upto(to) - upto(from)) as u64
}

/// `total` in proportion to the weights; the parts add up to it exactly.
fn apportion(total: u64, weights: &[u64]) -> impl Iterator<Item = u64> {
    let whole = weights.iter().sum();
    weights.iter().scan(0, move |before, weight| {
        let from = *before;
        *before += weight;
        Some(share(total, from, *before, whole))
    })
}

/// 1 to `count` in an order that looks random and is always the same.
fn shuffled(count: u64) -> Vec<u64> {
    let mut random = Random::new(0, 0);
    let mut numbers: Vec<u64> = (1..=count).collect();
    for i in (1..numbers.len()).rev() {
        numbers.swap(i, random.below(i as u64 + 1) as usize);
    }
    numbers
}

/// SplitMix64 (Steele, Lea and Flood, 2014). Our own, because a library's generator may give other numbers in its next version.
struct Random(u64);

impl Random {
    fn new(organization: u64, member: u64) -> Self {
        Self(organization.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ member.wrapping_mul(0xA076_1D64_78BD_642F))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number under `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn pick(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A version-4 UUID.
    fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | (low >> 48) & 0x3fff,
            low & 0xffff_ffff_ffff
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_rows(table: Table, scale: f64) -> (String, Totals) {
        let (mut out, mut totals) = (String::new(), Totals::default());
        for organization in organizations(scale) {
            for member in 1..=organization.members {
                rows(table, &organization, member, &mut out, &mut totals);
            }
        }
        (out, totals)
    }

    #[test]
    fn default_scale_has_the_promised_figures() {
        let organizations = organizations(1.0);
        assert_eq!(organizations.len(), 400);
        assert_eq!(organizations.iter().map(|o| o.members).sum::<u64>(), 20_000);
        assert_eq!(organizations.iter().map(|o| o.claims).sum::<u64>(), 3_000);
        let largest = organizations.iter().map(|o| o.members).max().unwrap();
        let median = {
            let mut m: Vec<_> = organizations.iter().map(|o| o.members).collect();
            m.sort_unstable();
            m[200]
        };
        assert!(largest > 100 * median, "sizes are skewed: largest {largest}, median {median}");
        assert_eq!(all_rows(Table::Contributions, 1.0).1.contributions, 200_000);
        assert_eq!(all_rows(Table::Claims, 1.0).1.claims, 3_000);
    }

    #[test]
    fn rows_are_the_same_on_every_start() {
        assert_eq!(all_rows(Table::Claims, 0.1), all_rows(Table::Claims, 0.1));
    }

    #[test]
    fn tiny_scale_still_has_members() {
        let organizations = organizations(0.01);
        assert_eq!(organizations.len(), 4);
        assert!(organizations.iter().all(|o| o.members >= 1));
    }

    #[test]
    fn shares_follow_the_scheme() {
        let member = Member { number: 1, wages: 20_000 * 100, joined_year: 2020, joined_month: 1 };
        assert_eq!(member.employee_share(), 2_400 * 100);
        assert_eq!(member.pension_share(), 1_250 * 100, "8.33 % of the ceiling of 15,000, not of 20,000");
    }

    #[test]
    fn keys_are_unique() {
        for (table, key_columns) in
            [(Table::Organizations, 1), (Table::Members, 2), (Table::Contributions, 2), (Table::Claims, 2)]
        {
            let (text, _) = all_rows(table, 0.2);
            let mut keys: Vec<Vec<&str>> =
                text.lines().map(|line| line.split('\t').take(key_columns).collect()).collect();
            let rows = keys.len();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), rows, "{}", table.name());
        }
    }

    #[test]
    fn states_are_those_of_the_schema() {
        let schema = include_str!("schema.sql");
        for state in STATES {
            assert!(schema.contains(&format!("    ('{state}', ")), "{state}");
        }
        assert_eq!(schema.matches("'state')").count(), 28);
        assert_eq!(schema.matches("'union territory')").count() - 1, 8, "one more in the CHECK");
    }
}
