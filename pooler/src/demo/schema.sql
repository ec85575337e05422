-- The demo's data model: a provident fund. Establishments (organizations) employ members; contributions are paid for
-- each member every month; members file claims. Everything but `states` belongs to one organization, so the sharding
-- key `organization_id` is part of every primary and foreign key: all of an organization's rows share a shard.

CREATE TABLE states (
    state_code text PRIMARY KEY,
    name       text NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('state', 'union territory'))
);
COMMENT ON TABLE states IS 'Reference table: the same rows on every shard.';

CREATE TABLE organizations (
    organization_id    bigint PRIMARY KEY,
    establishment_code text NOT NULL,
    name               text NOT NULL,
    state_code         text NOT NULL REFERENCES states,
    covered_since      date NOT NULL
);

CREATE TABLE members (
    organization_id bigint NOT NULL REFERENCES organizations,
    member_id       bigint NOT NULL,
    uan             text NOT NULL,
    joined_on       date NOT NULL,
    monthly_wages   numeric(12, 2) NOT NULL CHECK (monthly_wages > 0),
    PRIMARY KEY (organization_id, member_id)
);
COMMENT ON COLUMN members.uan IS 'Universal Account Number: the member''s own, whoever the employer is.';

CREATE TABLE contributions (
    organization_id bigint NOT NULL,
    contribution_id bigint NOT NULL,
    member_id       bigint NOT NULL,
    wage_month      date NOT NULL,
    wages           numeric(12, 2) NOT NULL,
    employee_share  numeric(12, 2) NOT NULL,
    employer_share  numeric(12, 2) NOT NULL,
    pension_share   numeric(12, 2) NOT NULL,
    PRIMARY KEY (organization_id, contribution_id),
    UNIQUE (organization_id, member_id, wage_month),
    FOREIGN KEY (organization_id, member_id) REFERENCES members
);

CREATE TABLE claims (
    organization_id bigint NOT NULL,
    claim_id        uuid NOT NULL DEFAULT gen_random_uuid(),
    member_id       bigint NOT NULL,
    status          text NOT NULL DEFAULT 'filed' CHECK (status IN ('filed', 'under review', 'settled', 'rejected')),
    amount          numeric(12, 2) NOT NULL CHECK (amount > 0),
    filed_at        timestamptz NOT NULL DEFAULT now(),
    documents       text[] NOT NULL DEFAULT '{}',
    details         jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (organization_id, claim_id),
    FOREIGN KEY (organization_id, member_id) REFERENCES members
);
CREATE INDEX claims_by_member ON claims (organization_id, member_id);

INSERT INTO states (state_code, name, kind) VALUES
    ('AP', 'Andhra Pradesh', 'state'),
    ('AR', 'Arunachal Pradesh', 'state'),
    ('AS', 'Assam', 'state'),
    ('BR', 'Bihar', 'state'),
    ('CG', 'Chhattisgarh', 'state'),
    ('GA', 'Goa', 'state'),
    ('GJ', 'Gujarat', 'state'),
    ('HR', 'Haryana', 'state'),
    ('HP', 'Himachal Pradesh', 'state'),
    ('JH', 'Jharkhand', 'state'),
    ('KA', 'Karnataka', 'state'),
    ('KL', 'Kerala', 'state'),
    ('MP', 'Madhya Pradesh', 'state'),
    ('MH', 'Maharashtra', 'state'),
    ('MN', 'Manipur', 'state'),
    ('ML', 'Meghalaya', 'state'),
    ('MZ', 'Mizoram', 'state'),
    ('NL', 'Nagaland', 'state'),
    ('OD', 'Odisha', 'state'),
    ('PB', 'Punjab', 'state'),
    ('RJ', 'Rajasthan', 'state'),
    ('SK', 'Sikkim', 'state'),
    ('TN', 'Tamil Nadu', 'state'),
    ('TS', 'Telangana', 'state'),
    ('TR', 'Tripura', 'state'),
    ('UP', 'Uttar Pradesh', 'state'),
    ('UK', 'Uttarakhand', 'state'),
    ('WB', 'West Bengal', 'state'),
    ('AN', 'Andaman and Nicobar Islands', 'union territory'),
    ('CH', 'Chandigarh', 'union territory'),
    ('DH', 'Dadra and Nagar Haveli and Daman and Diu', 'union territory'),
    ('DL', 'Delhi', 'union territory'),
    ('JK', 'Jammu and Kashmir', 'union territory'),
    ('LA', 'Ladakh', 'union territory'),
    ('LD', 'Lakshadweep', 'union territory'),
    ('PY', 'Puducherry', 'union territory');
