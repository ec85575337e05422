-- The shard map: which organization's rows are where, and what class each table is of.
--
-- The constraints make a map that contradicts itself impossible to commit. Every change of what routing needs takes a new
-- version for its database and notifies the channel "sluice_map" with the database's name, in the same transaction.

CREATE SEQUENCE sluice.version;
COMMENT ON SEQUENCE sluice.version IS
    'One counter for all versions of all databases: a later change has a higher number, also after DROP and re-creation.';

CREATE TABLE sluice.databases (
    name text PRIMARY KEY CHECK (name <> '' AND octet_length(name) <= 63),
    key_column text NOT NULL CHECK (key_column <> ''),
    key_type text NOT NULL CHECK (key_type IN ('int', 'uuid', 'text')),
    map_version bigint NOT NULL DEFAULT nextval('sluice.version'),
    schema_version bigint NOT NULL DEFAULT nextval('sluice.version'),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE sluice.databases IS 'Sharded databases, as clients name them.';
COMMENT ON COLUMN sluice.databases.key_column IS 'The sharding key: the column that every sharded table has.';
COMMENT ON COLUMN sluice.databases.key_type IS 'int (smallint, integer and bigint hash alike), uuid or text.';
COMMENT ON COLUMN sluice.databases.map_version IS 'Rises with every change of shards, nodes, slots and overrides.';
COMMENT ON COLUMN sluice.databases.schema_version IS 'Rises with every change of tables and functions.';

CREATE TABLE sluice.nodes (
    name text PRIMARY KEY CHECK (name <> ''),
    host text NOT NULL CHECK (host <> ''),
    port integer NOT NULL DEFAULT 5432 CHECK (port BETWEEN 1 AND 65535)
);
COMMENT ON TABLE sluice.nodes IS 'PostgreSQL servers that hold shards.';
COMMENT ON COLUMN sluice.nodes.host IS 'Host name, address, or the directory of a unix socket.';

CREATE TABLE sluice.shards (
    database text NOT NULL REFERENCES sluice.databases ON DELETE CASCADE,
    shard integer NOT NULL CHECK (shard BETWEEN 0 AND 4095),
    node text NOT NULL REFERENCES sluice.nodes ON UPDATE CASCADE,
    dbname text NOT NULL CHECK (dbname <> '' AND octet_length(dbname) <= 63),
    PRIMARY KEY (database, shard),
    UNIQUE (node, dbname)
);
COMMENT ON TABLE sluice.shards IS 'Where each shard is. Two shards in one PostgreSQL database would count its rows twice.';
COMMENT ON COLUMN sluice.shards.shard IS 'Numbered from 0 without gaps; shard 0 is the home shard.';

CREATE TABLE sluice.slots (
    database text NOT NULL REFERENCES sluice.databases ON DELETE CASCADE,
    slot integer NOT NULL CHECK (slot BETWEEN 0 AND 4095),
    shard integer NOT NULL,
    PRIMARY KEY (database, slot),
    FOREIGN KEY (database, shard) REFERENCES sluice.shards DEFERRABLE INITIALLY DEFERRED
);
COMMENT ON TABLE sluice.slots IS
    'The shard of each of the 4,096 slots; a row for each, so that no two shards can own one and a move is one UPDATE.';
COMMENT ON COLUMN sluice.slots.slot IS 'The hash of the sharding key, seed 0, masked with 4095: see sluice.slot() on the shards.';

CREATE TABLE sluice.overrides (
    database text NOT NULL REFERENCES sluice.databases ON DELETE CASCADE,
    key text NOT NULL,
    shard integer NOT NULL,
    PRIMARY KEY (database, key),
    FOREIGN KEY (database, shard) REFERENCES sluice.shards DEFERRABLE INITIALLY DEFERRED
);
COMMENT ON TABLE sluice.overrides IS 'Organizations that live elsewhere than their slot says.';
COMMENT ON COLUMN sluice.overrides.key IS 'The sharding key as PostgreSQL prints it (set by a trigger: 007 becomes 7).';

CREATE TABLE sluice.tables (
    database text NOT NULL REFERENCES sluice.databases ON DELETE CASCADE,
    schema_name text NOT NULL CHECK (schema_name <> ''),
    table_name text NOT NULL CHECK (table_name <> ''),
    class text NOT NULL CHECK (class IN ('sharded', 'reference', 'home')),
    columns text[] NOT NULL CHECK (array_position(columns, NULL) IS NULL),
    PRIMARY KEY (database, schema_name, table_name)
);
COMMENT ON TABLE sluice.tables IS 'The class of each table. Statements on a table that is not here are refused.';
COMMENT ON COLUMN sluice.tables.class IS
    'sharded: each row on its key''s shard; reference: the same rows on every shard; home: on shard 0 only.';
COMMENT ON COLUMN sluice.tables.columns IS 'All columns in the table''s own order, which an INSERT without a column list follows.';

CREATE TABLE sluice.functions (
    database text NOT NULL REFERENCES sluice.databases ON DELETE CASCADE,
    schema_name text NOT NULL CHECK (schema_name <> ''),
    function_name text NOT NULL CHECK (function_name <> ''),
    class text NOT NULL CHECK (class IN ('pure', 'shard_local')),
    PRIMARY KEY (database, schema_name, function_name)
);
COMMENT ON TABLE sluice.functions IS 'Functions that somebody vouches for. Others are refused, because nobody can see into them.';
COMMENT ON COLUMN sluice.functions.class IS
    'pure: reads no table and writes nothing; shard_local: touches only rows of the organization that its statement names.';

-- What each row must fulfil ------------------------------------------------------------------------------------------

CREATE FUNCTION sluice.canonical_override() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    type text := (SELECT key_type FROM sluice.databases WHERE name = NEW.database);
BEGIN
    -- Not a CASE: the planner would try the casts of all its branches on the value at hand.
    IF type = 'int' THEN
        NEW.key := NEW.key::bigint::text;
    ELSIF type = 'uuid' THEN
        NEW.key := NEW.key::uuid::text;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION sluice.canonical_override() IS 'One spelling for each key, of the database''s key type.';
CREATE TRIGGER canonical BEFORE INSERT OR UPDATE ON sluice.overrides
    FOR EACH ROW EXECUTE FUNCTION sluice.canonical_override();

CREATE FUNCTION sluice.check_table() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted text := (SELECT key_column FROM sluice.databases WHERE name = NEW.database);
BEGIN
    IF NEW.class = 'sharded' AND wanted <> ALL (NEW.columns) THEN
        RAISE check_violation USING
            MESSAGE = format('table "%s.%s" has no column "%s"', NEW.schema_name, NEW.table_name, wanted),
            HINT = 'A sharded table needs the sharding key. Make it a reference or a home table.';
    END IF;
    IF cardinality(NEW.columns) <> (SELECT count(DISTINCT c) FROM unnest(NEW.columns) AS c) THEN
        RAISE check_violation USING
            MESSAGE = format('table "%s.%s" has two columns of one name', NEW.schema_name, NEW.table_name);
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION sluice.check_table() IS 'Sharded tables have the sharding key, and column names are unique.';
CREATE TRIGGER checked BEFORE INSERT OR UPDATE ON sluice.tables
    FOR EACH ROW EXECUTE FUNCTION sluice.check_table();

CREATE FUNCTION sluice.check_database() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.map_version < OLD.map_version OR NEW.schema_version < OLD.schema_version THEN
        RAISE check_violation USING
            MESSAGE = format('the versions of database "%s" cannot go back', NEW.name);
    END IF;
    IF (NEW.key_column, NEW.key_type) IS DISTINCT FROM (OLD.key_column, OLD.key_type) THEN
        IF EXISTS (SELECT FROM sluice.tables WHERE database = OLD.name AND class = 'sharded')
            OR EXISTS (SELECT FROM sluice.overrides WHERE database = OLD.name)
        THEN
            RAISE check_violation USING
                MESSAGE = format('the sharding key of database "%s" cannot change', NEW.name),
                DETAIL = 'Sharded tables or overrides are placed by it.';
        END IF;
        NEW.map_version := nextval('sluice.version');
        NEW.schema_version := nextval('sluice.version');
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION sluice.check_database() IS 'Versions only rise, and what rows were placed by stays as it is.';
CREATE TRIGGER checked BEFORE UPDATE ON sluice.databases
    FOR EACH ROW EXECUTE FUNCTION sluice.check_database();

-- What the whole map must fulfil when its transaction commits ----------------------------------------------------------

CREATE FUNCTION sluice.check_map() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owned bigint := (SELECT count(*) FROM sluice.slots WHERE database = NEW.name);
    shards bigint;
    last_shard integer;
BEGIN
    IF NOT EXISTS (SELECT FROM sluice.databases WHERE name = NEW.name) THEN
        RETURN NULL; -- dropped later in the same transaction
    END IF;
    IF owned <> 4096 THEN
        RAISE check_violation USING
            MESSAGE = format('%s of 4096 slots of database "%s" have a shard', owned, NEW.name),
            HINT = 'Every slot needs one. Change slots and shards in one transaction.';
    END IF;
    SELECT count(*), max(shard) INTO shards, last_shard FROM sluice.shards WHERE database = NEW.name;
    IF last_shard IS DISTINCT FROM shards - 1 THEN
        RAISE check_violation USING
            MESSAGE = format('the shards of database "%s" are not numbered from 0 without gaps', NEW.name);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION sluice.check_map() IS
    'Runs at commit, once for each new version: all slots have a shard, and shard numbers have no gaps.';
CREATE CONSTRAINT TRIGGER complete AFTER INSERT OR UPDATE ON sluice.databases
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION sluice.check_map();

-- Versions and notifications -------------------------------------------------------------------------------------------

CREATE FUNCTION sluice.notify_map() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('sluice_map', OLD.name);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('sluice_map', NEW.name);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION sluice.notify_map() IS 'PostgreSQL sends one notification for each database and transaction, at commit.';
CREATE TRIGGER notify AFTER INSERT OR UPDATE OR DELETE ON sluice.databases
    FOR EACH ROW EXECUTE FUNCTION sluice.notify_map();

CREATE FUNCTION sluice.touch(touched text[], what text) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Lock first, in one order: the counter is then read after a concurrent change's number, and nobody deadlocks.
    PERFORM FROM sluice.databases WHERE name = ANY (touched) ORDER BY name FOR NO KEY UPDATE;
    IF what = 'map' THEN
        UPDATE sluice.databases SET map_version = nextval('sluice.version') WHERE name = ANY (touched);
    ELSE
        UPDATE sluice.databases SET schema_version = nextval('sluice.version') WHERE name = ANY (touched);
    END IF;
END $$;
COMMENT ON FUNCTION sluice.touch(text[], text) IS 'Gives databases a new map or schema version.';

CREATE FUNCTION sluice.touch_databases() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    touched text[];
BEGIN
    -- The transition tables that an operation lacks are not looked up in the branches that it does not take.
    IF TG_OP = 'INSERT' THEN
        touched := ARRAY (SELECT DISTINCT database FROM came);
    ELSIF TG_OP = 'DELETE' THEN
        touched := ARRAY (SELECT DISTINCT database FROM gone);
    ELSE
        touched := ARRAY (SELECT database FROM came UNION SELECT database FROM gone);
    END IF;
    PERFORM sluice.touch(touched, TG_ARGV[0]);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION sluice.touch_databases() IS 'After a statement: a new version for each database whose rows it changed.';

DO $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT * FROM (VALUES
            ('shards', 'map'), ('slots', 'map'), ('overrides', 'map'), ('tables', 'schema'), ('functions', 'schema')
        ) AS parts (relation, version)
    LOOP
        EXECUTE format('CREATE TRIGGER touch_insert AFTER INSERT ON sluice.%I REFERENCING NEW TABLE AS came
            FOR EACH STATEMENT EXECUTE FUNCTION sluice.touch_databases(%L)', part.relation, part.version);
        EXECUTE format('CREATE TRIGGER touch_delete AFTER DELETE ON sluice.%I REFERENCING OLD TABLE AS gone
            FOR EACH STATEMENT EXECUTE FUNCTION sluice.touch_databases(%L)', part.relation, part.version);
        EXECUTE format('CREATE TRIGGER touch_update AFTER UPDATE ON sluice.%I REFERENCING OLD TABLE AS gone NEW TABLE AS came
            FOR EACH STATEMENT EXECUTE FUNCTION sluice.touch_databases(%L)', part.relation, part.version);
    END LOOP;
END $$;

CREATE FUNCTION sluice.refuse_truncate() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE feature_not_supported USING
        MESSAGE = format('table "sluice.%s" cannot be truncated', TG_TABLE_NAME),
        HINT = 'Use DELETE: it is checked, versioned and notified.';
END $$;
COMMENT ON FUNCTION sluice.refuse_truncate() IS 'TRUNCATE would go past the checks and the versions.';

DO $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['databases', 'nodes', 'shards', 'slots', 'overrides', 'tables', 'functions'] LOOP
        EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON sluice.%I
            FOR EACH STATEMENT EXECUTE FUNCTION sluice.refuse_truncate()', relation);
    END LOOP;
END $$;

CREATE FUNCTION sluice.touch_nodes() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM sluice.touch(
        ARRAY (SELECT DISTINCT shards.database FROM sluice.shards JOIN came ON came.name = shards.node), 'map');
    RETURN NULL;
END $$;
COMMENT ON FUNCTION sluice.touch_nodes() IS 'After a node has moved: a new version for each database with a shard on it.';
-- A new node has no shards yet, and one with shards cannot be deleted.
CREATE TRIGGER touch_update AFTER UPDATE ON sluice.nodes REFERENCING NEW TABLE AS came
    FOR EACH STATEMENT EXECUTE FUNCTION sluice.touch_nodes();

CREATE FUNCTION sluice.advance_version(past bigint) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM setval('sluice.version', greatest(past, nextval('sluice.version')));
    PERFORM sluice.touch(ARRAY (SELECT name FROM sluice.databases), 'map');
    PERFORM sluice.touch(ARRAY (SELECT name FROM sluice.databases), 'schema');
END $$;
COMMENT ON FUNCTION sluice.advance_version(bigint) IS
    'After the catalog was restored to an earlier time: makes what is in it newer than version "past", so that instances that had seen that version follow.';
