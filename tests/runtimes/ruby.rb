# Threads, processes, files, sockets.
require 'socket'
require 'tmpdir'
require 'open3'
begin
  sum = Queue.new
  8.times.map { |n| Thread.new { sleep 0.001; sum << n } }.each(&:join)
  raise 'threads' unless sum.size == 8
  pid = fork { exit! 7 }
  Process.wait pid
  raise 'fork' unless $?.exitstatus == 7
  out, = Open3.capture2(RbConfig.ruby, '-e', 'print STDIN.read.reverse', stdin_data: 'abc')
  raise "child #{out}" unless out == 'cba'
  Dir.mktmpdir(nil, '/var') do |dir|
    File.open("#{dir}/a", 'w') { |f| f.flock(File::LOCK_EX); f.write 'x' * 100_000; f.fsync }
    IO.copy_stream("#{dir}/a", "#{dir}/b")
    raise 'copy' unless File.size("#{dir}/b") == 100_000
  end
  raise 'interfaces' unless Socket.getifaddrs.map(&:name).uniq == ['lo']
  [TCPServer.new('127.0.0.1', 0), TCPServer.new('::1', 0), UNIXServer.new('/var/ruby.sock')].each do |server|
    address = server.is_a?(UNIXServer) ? nil : server.addr
    peer = address ? TCPSocket.new(address[3], address[1]) : UNIXSocket.new('/var/ruby.sock')
    got = server.accept
    peer.puts 'hello'
    raise server.inspect unless got.gets == "hello\n"
  end
  puts "RUNTIME OK ruby #{RUBY_VERSION}"
rescue Exception => e
  puts "RUNTIME FAILED #{e.full_message(highlight: false)}"
end
