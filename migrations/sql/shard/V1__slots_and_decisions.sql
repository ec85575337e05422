-- What Sluice needs in each shard's database: the slot of a key, and the decisions of two-phase commits.

-- Application roles call the functions below; they get no right on any table here.
GRANT USAGE ON SCHEMA sluice TO PUBLIC;

-- The bodies are parsed now, not at each call: a caller's search_path cannot change what they mean.
CREATE FUNCTION sluice.slot(bigint) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (hashint8extended($1, 0) & 4095)::integer;
COMMENT ON FUNCTION sluice.slot(bigint) IS 'The slot of a smallint, integer or bigint key.';

-- Collation C: its hash is of the bytes, whatever the database's own collation is.
CREATE FUNCTION sluice.slot(text) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (hashtextextended($1 COLLATE "C", 0) & 4095)::integer;
COMMENT ON FUNCTION sluice.slot(text) IS 'The slot of a text key.';

CREATE FUNCTION sluice.slot(uuid) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (uuid_hash_extended($1, 0) & 4095)::integer;
COMMENT ON FUNCTION sluice.slot(uuid) IS 'The slot of a uuid key.';

CREATE TABLE sluice.decisions (
    transaction_id text NOT NULL,
    decision_shard integer NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('commit', 'abort')),
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (transaction_id, decision_shard)
);
COMMENT ON TABLE sluice.decisions IS
    'Outcomes of two-phase commits whose decision is made on this shard. Rows go when no shard holds a prepared part any more.';
COMMENT ON COLUMN sluice.decisions.outcome IS
    'commit: written by the deciding transaction itself; abort: written by recovery, so that a late decision fails on the key.';

CREATE FUNCTION sluice.decide(transaction_id text, decision_shard integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The other shards commit on the strength of this row, so it must be on disk when COMMIT answers.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    INSERT INTO sluice.decisions (transaction_id, decision_shard, outcome) VALUES ($1, $2, 'commit');
END $$;
COMMENT ON FUNCTION sluice.decide(text, integer) IS
    'Last statement of the last part of a two-phase commit: committing it commits all parts. Fails (23505) if recovery has aborted them.';
