-- ---------------------------------------------------------------------------
-- Rows that move between members of a team, and what a refund of such a move does
-- ---------------------------------------------------------------------------

\set VERBOSITY sqlstate
SELECT md5('moves ann')::uuid AS ann, md5('moves ben')::uuid AS ben, md5('moves team')::uuid AS team \gset
INSERT INTO metrics (metric, kind) VALUES ('moves_seats', 'gauge');
INSERT INTO plans (plan) VALUES ('moves_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES ('moves_plan', 'moves_seats', 'lifetime', 100);
INSERT INTO subscriptions (user_id, plan, parent) VALUES (:'team', 'moves_plan', NULL), (:'ann', 'moves_plan', :'team'), (:'ben', 'moves_plan', :'team');
CREATE TEMP TABLE rooms (owner uuid, seats numeric);
CREATE TRIGGER quota AFTER INSERT OR UPDATE OR DELETE ON rooms FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('moves_seats', 'owner', 'seats');

-- ann has 3 by a room and 20 of her own, and so has the team
INSERT INTO rooms VALUES (:'ann', 3);
SELECT allowed, used FROM check_and_consume_quota(:'ann', 'moves_seats', 20);
-- the room goes to ben and grows to 8: the team is charged the difference, 5
UPDATE rooms SET owner = :'ben', seats = 8;
SELECT user_id = :'ann' AS ann, user_id = :'ben' AS ben, used FROM usage_tracking WHERE metric = 'moves_seats' ORDER BY used;
-- ben's 8 go back, and of the team's what that event charged it
SELECT allowed, granted, used FROM refund_quota((SELECT id FROM usage_events WHERE user_id = :'ben' AND kind = 'consume'));
SELECT user_id = :'ann' AS ann, user_id = :'ben' AS ben, used FROM usage_tracking WHERE metric = 'moves_seats' ORDER BY used;
SELECT u.counter, u.recorded, u.expected FROM unnest(ARRAY[:'ann', :'ben', :'team']::uuid[]) AS s, verify_ledger(s) AS u;

-- A row that was there before the trigger, with what cannot be an amount, can go and be corrected
CREATE TEMP TABLE old_rooms (owner uuid, seats numeric);
INSERT INTO old_rooms VALUES (:'ben', -3), (:'ben', 'NaN'), (:'ben', 0.12345678);
CREATE TRIGGER quota AFTER INSERT OR UPDATE OR DELETE ON old_rooms FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('moves_seats', 'owner', 'seats');
UPDATE old_rooms SET seats = 2 WHERE seats = -3;
UPDATE old_rooms SET seats = -1 WHERE seats = 'NaN';
DELETE FROM old_rooms WHERE seats = 'NaN';
DELETE FROM old_rooms WHERE seats < 1;
SELECT used FROM check_quota(:'ben', 'moves_seats');

-- A job writes down what has expired; it had stopped counting before
SET quota.test_clock = '2100-03-10 12:00+00';
SELECT allowed FROM reserve_quota(:'ann', 'moves_seats', 50, '1 minute');
SELECT allowed FROM settle_reservation((SELECT reservation_id FROM reserve_quota(:'ben', 'moves_seats', 1, '1 minute')));
SET quota.test_clock = '2100-03-10 12:01+00';
SELECT remaining FROM check_quota(:'ann', 'moves_seats');
SELECT sum(held) AS held FROM usage_tracking WHERE metric = 'moves_seats';
-- ann, ben (whose hold was settled, and has to be looked at once) and the team
SELECT expire_reservations(10) >= 3 AS tidied;
SELECT sum(held) AS held, count(holds_expire_at) AS open FROM usage_tracking WHERE metric = 'moves_seats';
SELECT count(*) FROM usage_events WHERE metric = 'moves_seats' AND kind = 'expire';
SELECT expire_reservations(0);
SELECT expire_reservations(NULL);
RESET quota.test_clock;
SELECT u.counter, u.recorded, u.expected FROM unnest(ARRAY[:'ann', :'ben', :'team']::uuid[]) AS s, verify_ledger(s) AS u;

-- An empty batch is none
SELECT count(*) FROM consume_quota_batch('{}', '{}');
