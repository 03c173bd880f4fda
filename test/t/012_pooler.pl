# Through PgBouncer in transaction mode, where many clients share few sessions and
# none keeps its own: the counts are exact, and what sessions have cached is not out
# of date.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use IPC::Run;
use PostgreSQL::Test::Utils;
use QuotaTest;
use Test::More;

my $POOL = 3;		# sessions that the clients share
my $node = new_server('pooled', settings => "quota.default_plan = 'pooled'");
$node->safe_psql('postgres', <<'END');
INSERT INTO quota.metrics (metric) VALUES ('calls');
INSERT INTO quota.plans (plan) VALUES ('pooled');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount) VALUES ('pooled', 'calls', 'lifetime', 500);
CREATE TABLE answers (pid integer DEFAULT pg_backend_pid(), o quota.outcome);
END

my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $port = $node->port;			# free in a directory of its own
my $superuser = $node->safe_psql('postgres', 'SELECT current_user');
append_to_file("$dir/pgbouncer.ini", <<"END");
[databases]
postgres = host=${\$node->host} port=$port user=$superuser
[pgbouncer]
unix_socket_dir = $dir
listen_addr =
listen_port = $port
auth_type = any
pool_mode = transaction
default_pool_size = $POOL
ignore_startup_parameters = extra_float_digits, options
END
local $ENV{PATH} = "$ENV{PATH}:/usr/sbin";	# where Debian has it
my $pooler = IPC::Run::start([ 'pgbouncer', '-q', "$dir/pgbouncer.ini" ], '<', '/dev/null', '>', "$dir/log", '2>&1');
my @pooled = (host => $dir, port => $port, protocol => 'extended');

# by way of the pooler
sub ask
{
	my ($sql) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'psql', '-XAtq', '-h', $dir, '-p', $port, '-c', $sql, 'postgres' ], '<', '/dev/null', '>', \$out, '2>', \$err);
	chomp $out;
	return $out . $err;
}

for (my $tries = 0; ask('SELECT 1') ne '1' && $tries < 600; $tries++)
{
	select(undef, undef, undef, 0.1);
}
is(ask('SELECT 1'), '1', 'the pooler answers') or diag(slurp_file("$dir/log"));

my $user = subject(1);
my $calls = <<"END";
BEGIN ISOLATION LEVEL SERIALIZABLE;
SET LOCAL quota.isolation = 'latest';
INSERT INTO answers (o) SELECT o FROM quota.check_and_consume_quota('$user', 'calls') AS o;
INSERT INTO answers (o) SELECT o FROM quota.check_and_consume_quota('$user', 'calls') AS o;
COMMIT;
END
my $result = pgbench($node, @pooled, script => $calls, clients => 20, transactions => 20);
is($result->{failed}, 0, 'no transaction failed');
is($result->{processed}, 400, 'all were answered');
is($node->safe_psql('postgres', 'SELECT count(*) FILTER (WHERE (o).allowed), count(*) FROM answers'), '500|800', 'exactly 500 of 800 calls granted');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT pid) BETWEEN 1 AND ' . $POOL . ' FROM answers'), 't', "by at most $POOL sessions");
is(ask('SHOW quota.isolation'), 'strict', 'SET LOCAL is not left to the next client');

# a limit that is changed beside the pooler counts in all pooled sessions
$node->safe_psql('postgres', 'UPDATE quota.plan_limits SET limit_amount = 600; TRUNCATE answers');
$result = pgbench($node, @pooled, script => $calls, clients => 20, transactions => 10);
is($result->{failed}, 0, 'new limit: no transaction failed');
is($node->safe_psql('postgres', 'SELECT count(*) FILTER (WHERE (o).allowed), count(*) FROM answers'), '100|400', 'new limit: the 100 more are granted');

# one key from many clients
my $other = subject(2);
$node->safe_psql('postgres', 'TRUNCATE answers');
$result = pgbench($node, @pooled, clients => 20,
	script => "INSERT INTO answers (o) SELECT o FROM quota.check_and_consume_quota('$other', 'calls', 1, 'key') AS o;\n");
is($result->{failed}, 0, 'one key: no call failed');
is($node->safe_psql('postgres', 'SELECT count(*), count(*) FILTER (WHERE NOT (o).already_processed), count(DISTINCT (o).event_id) FROM answers'),
	'20|1|1', 'one key: charged once, answered the same');

$pooler->signal('INT');
$pooler->finish;
is_sound($node, 'at the end');
done_testing();
