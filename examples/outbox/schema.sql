-- The outbox: rows that a transaction writes beside its own data. Each becomes a request for a worker once the transaction has
-- committed; a row of a transaction that was rolled back was never there.
CREATE TABLE outbox (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),        -- the idempotency key of the request
    place bigint GENERATED ALWAYS AS IDENTITY,            -- the order in which the rows were written
    method text NOT NULL,
    data jsonb NOT NULL,
    user_id text,                                         -- who gets the answer, if anybody
    error text                                            -- why the gateway refuses it for good
);
CREATE INDEX ON outbox (place) WHERE error IS NULL;

-- Wakes the relay. The notification comes with the commit.
CREATE FUNCTION outbox_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('outbox', '');
    RETURN NULL;
END $$;
CREATE TRIGGER outbox_changed AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION outbox_changed();
