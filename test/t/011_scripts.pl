# scripts/demo as users meet it: two at once, kept, interrupted, without the
# packages; and what it prints is what the README shows.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use File::Path;
use File::Temp;
use IPC::Run;
use PostgreSQL::Test::Utils;
use QuotaTest;
use Test::More;
use Time::HiRes;
use sigtrap qw(die INT TERM);	# so that END is reached

my $root = "$FindBin::RealBin/../..";
my ($major) = `pg_config --version` =~ /(\d+)/ or die 'no pg_config';

# The TMPDIRs of all runs are in here.  Its path is short, because the scripts
# avoid a TMPDIR that leaves no room for the path of a socket.
my ($tmp) = grep { $_ && length() <= 30 } $ENV{TMPDIR}, '/tmp';
my $base = File::Temp::tempdir('XXXXXX', DIR => $tmp);
chmod 0755, $base;
my @runs;

# Start a script as a shell does, in a process group of its own, but without a
# terminal.  "path" comes first in PATH, "dir" is the TMPDIR.
sub start_script
{
	my ($script, $arguments, %args) = @_;
	my $dir = $args{dir} // "$base/" . @runs;
	push @runs, my $run = { dir => $dir, out => '', err => '' };

	# Called by root, the scripts do everything in there as postgres.
	-d $dir or mkdir $dir and chmod 01777, $dir or die "$dir: $!";
	local @ENV{qw(TMPDIR PATH)} = ($dir, join ':', $args{path} // (), $ENV{PATH});
	# Whoever started this test in the background has made it ignore SIGINT.
	my $as_job = sub { setpgrp; $SIG{INT} = 'DEFAULT' };
	$run->{handle} = IPC::Run::start([ "$root/scripts/$script", @$arguments ],
		'<', '/dev/null', '>', \$run->{out}, '2>', \$run->{err}, init => $as_job,
		IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));
	return $run;
}

# Wait for its end; sets the status as a shell would tell it.
sub finish_script
{
	my ($run) = @_;

	$run->{handle}->finish;
	my $result = $run->{handle}->full_result(0);
	$run->{status} = $result & 127 ? 128 + ($result & 127) : $result >> 8;
	note("exit status $run->{status}\n$run->{out}$run->{err}");
	return $run;
}

sub script { return finish_script(start_script(@_)) }

# The processes that work in a directory or name it, as "pid command".  All that
# the scripts start works in theirs, servers and compilers alike.
sub processes
{
	my ($dir) = @_;
	my @found;

	foreach my $pid (map { m{(\d+)$} } glob '/proc/[0-9]*')
	{
		# Any of them may end while we look.
		my $cwd = (readlink("/proc/$pid/cwd") // '') =~ s/ \(deleted\)$//r;
		open my $file, '<', "/proc/$pid/cmdline" or next;
		my $command = do { local $/; readline $file } // '';
		$command =~ tr/\0/ /;
		push @found, "$pid $command" if "$cwd/ $command" =~ m{\Q$dir\E/};
	}
	return @found;
}

sub nothing_is_left
{
	my ($dir, $name) = @_;

	is_deeply([ glob "$dir/*" ], [], "$name: no file is left");
	# One that was ended by a signal may still be on its way out.
	my $tries = 20;
	Time::HiRes::sleep(0.1) while processes($dir) && $tries-- > 0;
	is_deeply([ processes($dir) ], [], "$name: no process is left");
	return;
}

# However this test ends, it leaves nothing running.
END
{
	my $status = $?;
	$_->{handle}->kill_kill(grace => 20) foreach grep { $_->{handle} && !defined $_->{status} } @runs;
	kill 'QUIT', map { (split)[0] } grep { m{/postgres -D} } processes($base) if $base;
	File::Path::remove_tree($base) if $base;
	$? = $status;
}

# What the user typed and was answered: a list of [ statement, rows of cells ].
# Comments and psql's own commands are left out.  A table without a statement, as
# the README has one, answers the statement before it once more.
sub calls
{
	my ($text) = @_;
	my (@calls, $in_statement, $in_table);

	foreach my $line (split /\n/, $text)
	{
		$in_table = 0 if $line eq '';
		next if $line =~ /^$|^-- |^\\|^-[-+]+$/;
		if ($in_statement || $line =~ /^[A-Z]/)
		{
			push @calls, [ '' ] unless $in_statement;
			$calls[-1][0] = join ' ', split ' ', "$calls[-1][0] $line";
			$in_statement = $line !~ /;$/;
			$in_table = 0;
		}
		else
		{
			push @calls, [ $calls[-1][0] ] if !$in_table++ && $calls[-1][1];
			push @{ $calls[-1][1] }, [ map { s/^\s+|\s+$//gr } split /\|/, $line, -1 ];
		}
	}
	return @calls;
}

foreach my $script ('demo', 'test')
{
	foreach my $case ([ '--help', 0, 'out', 'err' ], [ '--nonsense', 2, 'err', 'out' ])
	{
		my ($option, $status, $usage, $empty) = @$case;
		my $run = script($script, [$option]);
		is($run->{status}, $status, "$script $option: exit status");
		like($run->{$usage}, qr{\Ascripts/$script \[--keep\] \[--pg MAJOR\].*^  --keep }ms, "$script $option: usage");
		is($run->{$empty}, '', "$script $option: nothing else");
	}
}

SKIP:
{
	skip 'root would install the packages', 1 if $> == 0;

	# Nothing is installed, and whoever does something about it is noticed.
	my $bin = File::Temp::tempdir(DIR => $base);
	foreach my $program (qw(dpkg-query apt-get sudo make))
	{
		append_to_file("$bin/$program", "#!/bin/sh\necho $program \"\$@\" >>$base/called\nexit 1\n");
		chmod 0755, "$bin/$program";
	}
	my $packages = "gcc make libc6-dev postgresql-$major postgresql-server-dev-$major";
	foreach my $case ([ 'demo', $packages ],
		[ 'test', "$packages libipc-run-perl pgbouncer postgresql-$major-pgtap libtap-parser-sourcehandler-pgtap-perl libdbd-pg-perl" ])
	{
		my ($name, $run) = ("$case->[0] without packages", script($case->[0], [ '--pg', $major ], path => $bin));
		is($run->{status}, 1, "$name: exit status");
		is($run->{out}, '', "$name: nothing is begun");
		like($run->{err}, qr/^ +sudo apt-get install --no-install-recommends \Q$case->[1]\E$/m, "$name: says how to install which");
		nothing_is_left($run->{dir}, $name);
	}
	my %called = map { (split)[0] => 1 } split /\n/, slurp_file("$base/called");
	is_deeply([ keys %called ], ['dpkg-query'], 'without packages: nothing is tried');
}

# Two at once, in the same TMPDIR, one of them kept
my $kept = start_script('demo', [ '--keep', '--pg', $major ]);
my $plain = script('demo', [ '--pg', $major ], dir => $kept->{dir});
finish_script($kept);
foreach my $case ([ 'plain', $plain ], [ '--keep', $kept ])
{
	my ($name, $run) = @$case;
	is($run->{status}, 0, "$name: exit status");
	is($run->{err}, '', "$name: no error");
	like($run->{out}, qr/^   Exactly 1000 granted\.$/m, "$name: says that all is well");
	my %table = $run->{out} =~ /^   (\S.*?) {2,}(\d+)$/mg;
	ok(delete $table{'calls per second'}, "$name: says how fast it was");
	is_deeply(\%table, { 'answers: granted' => 1000, 'answers: denied' => 2000, 'sum of the ledger' => 1000,
		'counter of the account' => 1000, 'differences (verify_ledger)' => 0 }, "$name: the numbers");
	($run->{work}) = $run->{out} =~ m{^== Starting a private cluster in (\Q$run->{dir}\E/quota-demo\.\w+)$}m
	  or die "where does the demo work?\n$run->{out}";
}
nothing_is_left($plain->{work}, 'plain');
is_deeply([ glob "$kept->{dir}/*" ], [ $kept->{work} ], 'the cluster kept is all that there is');

# What the README shows
my $readme = slurp_file("$root/README.md");
my ($example) = $readme =~ /^## In 30 seconds\n(.*?)^## /ms or die 'the README has no example';
my @shown = calls(join "\n", $example =~ /^```sql\n(.*?)^```$/msg);
my @printed = calls($plain->{out} =~ /^== The calls\n(.*?)^== /ms);
my @sql = map { $_->[0] } calls(slurp_file("$root/scripts/demo.sql"));

# Fewer than when this was written would be a mistake in reading them.
cmp_ok(scalar @shown, '>=', 11, 'the README makes calls');
cmp_ok(scalar(grep { $_->[1] } @shown), '>=', 7, 'the README shows answers');
is_deeply([ map { $_->[0] } @shown ], \@sql, 'demo.sql makes exactly the calls of the README');
is_deeply([ map { $_->[0] } @printed ], \@sql, 'the demo shows what it calls');
# Not compared: answers that the README leaves out, among them the random id of the
# bonus, and when the month ends, of which only the form is.
foreach my $i (grep { $shown[$_][1] } 0 .. $#shown)
{
	my ($want, $got) = map {
		[ map { [ map { s/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d(:\d\d)?$/(time)/r } @$_ ] } @{ $_->[$i][1] // [] } ]
	} \@shown, \@printed;
	is_deeply($got, $want, 'the README shows the answer to call ' . ($i + 1));
}

# The cluster that was kept
my ($psql, $try) = $kept->{out} =~ /Connect with\n +(psql .*?)(?: +\(as root\))?\n +and try: +(SELECT .*;)\n/ or die 'no way to connect';
my ($stop) = $kept->{out} =~ /Stop and remove it with\n +(\S.*)\n/ or die 'no way to stop';
my ($first, $columns) = $readme =~ /^```sql\n(SELECT[^`]*?;)\n-- (.*) \| …\n```$/m or die 'the README does not begin with a call';
foreach my $case (
	[ "$psql -XAt", $try, qr/^ai_generations\|.*\|1000\|.*\|exceeded/m, 'it answers as printed' ],
	[ "$psql -XA -F ' | '", $first, qr/\A\Q$columns\E \| /, 'the README names its first columns' ],
	[ $stop, '', qr/server stopped/, 'it is stopped as printed' ])
{
	my ($command, $input, $answer, $name) = @$case;
	IPC::Run::run([ 'sh', '-c', $command ], '<', \$input, '>', \my $out, '2>', \my $err);
	is($?, 0, "--keep: $name: exit status");
	like($out, $answer, "--keep: $name");
	is($err, '', "--keep: $name: no error");
}
nothing_is_left($kept->{dir}, '--keep, stopped');

# Ctrl-C
foreach my $case (
	[ 'as it begins to build', qr/^== Building for/m, qr/./ ],
	[ 'while it compiles', qr/^== Building for/m, qr/\.c( |$)/ ],
	[ 'while clients compete', qr/^== 50 clients compete/m, qr/^\d+ postgres: .* INSERT/ ])
{
	my ($name, $output, $process) = @$case;
	my $run = start_script('demo', [ '--pg', $major ]);
	$run->{handle}->pump until $run->{out} =~ $output;
	until (grep { $_ =~ $process } processes($run->{dir}))
	{
		$run->{handle}->pump_nb;
		die "$name: too late" unless $run->{handle}->pumpable;
		Time::HiRes::sleep(0.005);
	}
	$run->{handle}->signal('-INT');
	finish_script($run);
	is($run->{status}, 130, "Ctrl-C $name: exit status");
	like($run->{err}, qr/^demo: interrupted, cleaning up$/m, "Ctrl-C $name: says what it does");
	# A compiler that is not ended in time misses its files.
	unlike("$run->{out}$run->{err}", qr/Exactly|Done|No such file/, "Ctrl-C $name: nothing goes on");
	nothing_is_left($run->{dir}, "Ctrl-C $name");
}
done_testing();
