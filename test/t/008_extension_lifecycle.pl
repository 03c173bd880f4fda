# The extension is dropped, created and altered under sessions that have called
# it before, and that hold on to what they found.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use QuotaTest;
use Test::More;

my $node = new_server('lifecycle', settings => "quota.default_plan = 'basic'");
my $user = subject(1);

sub fill
{
	my ($limit) = @_;

	return <<"END";
INSERT INTO quota.metrics (metric) VALUES ('calls');
INSERT INTO quota.plans (plan) VALUES ('basic');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount) VALUES ('basic', 'calls', 'lifetime', $limit);
END
}
my $call = "SELECT allowed, limit_amount, used FROM quota.check_and_consume_quota('$user', 'calls', 1)";
my $keyed = "SELECT allowed, used, already_processed FROM quota.check_and_consume_quota('$user', 'calls', 2, 'the key')";
my $check = "SELECT allowed, limit_amount, used FROM quota.check_quota('$user', 'calls', 1)";

# All in one session, while another one looks on that has everything cached and
# its statements prepared.
my $one = $node->background_psql('postgres', on_error_stop => 0);
my $two = $node->background_psql('postgres');
$_->query_safe('SET client_min_messages = warning') foreach ($one, $two);
$one->query_safe(fill(10));
$two->query_safe("PREPARE call AS $call");
is($one->query_safe($call), 't|10|1', 'a call');
is($one->query_safe($keyed), 't|3|f', 'a call with a key');
is($two->query_safe('EXECUTE call'), 't|10|4', 'a call from another session');

$one->query_safe('DROP EXTENSION quota; CREATE EXTENSION quota');
$one->query_safe(fill(20));
is($one->query_safe($call), 't|20|1', 'dropped and created: the same session');
is($one->query_safe($keyed), 't|3|f', 'dropped and created: keys are forgotten');
is($one->query_safe($keyed), 't|3|t', 'dropped and created: and remembered again');
is($two->query_safe($call), 't|20|4', 'dropped and created: the other session');
is($two->query_safe($check), 't|20|4', 'dropped and created: check_quota');
is_sound($node, 'dropped and created');

# In one transaction, with calls in between
is($one->query_safe(<<"END"), "t|20|5\nt|30|1\nt|30|2", 'dropped and created in one transaction');
BEGIN;
$call;
SAVEPOINT before;
DROP EXTENSION quota;
CREATE EXTENSION quota;
@{[fill(30)]}
$call;
$call;
COMMIT;
END
is($two->query_safe($call), 't|30|3', 'dropped and created in one transaction: the other session');

# Dropped, and the drop rolled back
is($one->query_safe("BEGIN; $call; SAVEPOINT s; DROP EXTENSION quota; ROLLBACK TO s; $call; COMMIT; $call"),
	"t|30|4\nt|30|5\nt|30|6", 'a drop that was rolled back to a savepoint');
is($one->query_safe("BEGIN; DROP EXTENSION quota; ROLLBACK; $call"), 't|30|7', 'a drop that was rolled back');
is($two->query_safe($call), 't|30|8', 'a drop that was rolled back: the other session');

# Gone: an error that says so, and the session goes on
$one->query_safe('DROP EXTENSION quota CASCADE');
is($one->query_safe(<<'END'), 0, 'nothing is left in the schema');
SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'quota'::regnamespace)
	+ (SELECT count(*) FROM pg_proc WHERE pronamespace = 'quota'::regnamespace)
	+ (SELECT count(*) FROM pg_type WHERE typnamespace = 'quota'::regnamespace)
	+ (SELECT count(*) FROM pg_constraint WHERE connamespace = 'quota'::regnamespace)
	+ (SELECT count(*) FROM pg_operator WHERE oprnamespace = 'quota'::regnamespace)
END
is($one->query_safe(q{SELECT count(*) FROM pg_extension WHERE extname = 'quota'}), 0, 'the extension is gone');
is(sqlstate($node, $call), '42883', 'a call is an error');

# Created and rolled back, with calls in between, then created for good
is($one->query_safe("BEGIN; CREATE EXTENSION quota; @{[fill(40)]} $call; $keyed; ROLLBACK;"),
	"t|40|1\nt|3|f", 'created in a transaction');
is(sqlstate($node, $call), '42883', 'rolled back');
is($one->query_safe("BEGIN; SAVEPOINT s; CREATE EXTENSION quota; @{[fill(45)]} $call; ROLLBACK TO s; CREATE EXTENSION quota; @{[fill(50)]} $call; COMMIT;"),
	"t|45|1\nt|50|1", 'rolled back to a savepoint, and created again');
is($one->query_safe($call), 't|50|2', 'and used');
is($two->query_safe($call), 't|50|3', 'also by the other session');
is($two->query_safe('EXECUTE call'), 't|50|4', 'also by its prepared statement')
  or diag('a prepared statement is planned again when its function is created again');

# ALTER EXTENSION
is($one->query_safe('ALTER EXTENSION quota UPDATE; ' . $call), 't|50|5', 'ALTER EXTENSION UPDATE');
is($one->query_safe("ALTER EXTENSION quota DROP TABLE quota.usage_history; $call; ALTER EXTENSION quota ADD TABLE quota.usage_history; $call"),
	"t|50|6\nt|50|7", 'ALTER EXTENSION DROP and ADD');
is(sqlstate($node, 'ALTER EXTENSION quota SET SCHEMA public'), '0A000', 'ALTER EXTENSION SET SCHEMA is refused');
is($two->query_safe($call), 't|50|8', 'the other session goes on');

# A table that the engine needs is taken away and comes back
is($one->query_safe("BEGIN; ALTER TABLE quota.usage_events RENAME TO hidden; SAVEPOINT s;"), '', 'a table is hidden');
$one->query($call);
like($one->{stderr}, qr/relation "quota.usage_events" does not exist/, 'a call says what is missing');
$one->{stderr} = '';
$one->query('ROLLBACK');
$one->{stderr} = '';
is($one->query_safe($call), 't|50|9', 'and calls again when the table is back');

is_sound($node, 'at the end');
is_uncorrupted($node, 'at the end');
$_->quit foreach ($one, $two);

# What others have built on it goes only with CASCADE
$node->safe_psql('postgres', "CREATE VIEW used AS SELECT * FROM quota.usage_tracking;
	CREATE TABLE kept (o quota.outcome, n integer); INSERT INTO kept SELECT o, 1 FROM quota.check_quota('$user', 'calls') AS o");
is(sqlstate($node, 'DROP EXTENSION quota'), '2BP01', 'DROP EXTENSION is refused while something depends on it');
$node->safe_psql('postgres', 'DROP EXTENSION quota CASCADE');
is($node->safe_psql('postgres', q{SELECT count(*), (SELECT count(*) FROM pg_class WHERE relname = 'used') FROM kept}), '1|0',
	'DROP EXTENSION CASCADE takes along what depends on it, and no rows of others');
# Who owns the schema can plant functions in it, so somebody else's is not taken.
$node->safe_psql('postgres', 'CREATE DATABASE squatted');
$node->safe_psql('squatted', 'CREATE ROLE squatter; CREATE SCHEMA quota AUTHORIZATION squatter; CREATE EXTENSION pgcrypto');
my ($squat_status, undef, $squat_error) = $node->psql('squatted', '\set VERBOSITY sqlstate' . "\nCREATE EXTENSION quota");
like($squat_error, qr/42501/, "another role's schema is refused");
is($node->safe_psql('squatted', "SELECT count(*) FROM pg_extension WHERE extname = 'quota'"), 0, 'and nothing is installed');

# Somebody who may create objects in a schema that CREATE EXTENSION searches puts
# operators there that fit better than the server's own.
$node->safe_psql('postgres', 'CREATE DATABASE planted');
$node->safe_psql('planted', <<'SQL');
CREATE EXTENSION pgcrypto;
DO $do$
DECLARE
	l text; r text; op text; n integer := 0;
BEGIN
	FOR l, r, op IN
		SELECT l.t, r.t, o.op
		FROM unnest('{numeric,integer,bigint,text,timestamptz}'::text[]) AS l (t), unnest('{numeric,integer,bigint,text,timestamptz}'::text[]) AS r (t),
			unnest('{<,<=,>,>=,=,<>,~,+,-,*,/,||}'::text[]) AS o (op)
	LOOP
		n := n + 1;
		EXECUTE format('CREATE FUNCTION public.planted_%s(%s, %s) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION %L; END $f$',
			n, l, r, 'the planted operator was called');
		EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.planted_%s, LEFTARG = %s, RIGHTARG = %s)', op, n, l, r);
	END LOOP;
END
$do$;
CREATE FUNCTION public.round(numeric, integer) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'called'; END $$;
CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'called'; END $$;
CREATE EXTENSION quota;
SQL
is($node->safe_psql('planted', <<'END'), '', 'nothing of the extension uses what stands in public');
SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid), pg_describe_object(d.refclassid, d.refobjid, 0)
FROM pg_depend d
LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
LEFT JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
WHERE coalesce(o.oprnamespace, p.pronamespace) = 'public'::regnamespace AND d.classid <> 'pg_operator'::regclass
END
is($node->safe_psql('planted', <<"END"), "t|ok\nt|bonus", 'and all acts work');
SET client_min_messages = warning;
SELECT quota.load_preset(p) IS NULL FROM unnest('{sheenapps,idoctor,rag_trial,bn_aura}'::text[]) AS p \\g /dev/null
SELECT quota.assign_plan('$user', 'free'), quota.grant_bonus('$user', 'exports', 2), quota.set_limit_override('$user', 'exports', 3, now() + interval '1 day') \\g /dev/null
SELECT allowed, reason FROM quota.check_and_consume_quota('$user', 'exports', 2);
SELECT allowed, reason FROM quota.check_and_consume_quota('$user', 'exports', 2);
SELECT count(*) FROM quota.get_users_near_quota_limit(), quota.verify_ledger(), quota.get_user_quota_status('$user') \\g /dev/null
END

done_testing();
